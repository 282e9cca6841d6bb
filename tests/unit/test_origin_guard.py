"""The origin guard: which pages may call, and the CORS headers that they get."""

from __future__ import annotations

import json
from collections.abc import Iterable

import pytest
from starlette.types import Message
from workers_ai_emulator.middleware.origin_guard import OriginGuardMiddleware

from tests.asgi import Recorder, body_of, call, headers_of, http_scope, status_of

PAGE = "https://page.example"


def request(
    headers: dict[str, str],
    *,
    allowed: Iterable[str] = (),
    host: str = "127.0.0.1",
    method: str = "POST",
) -> tuple[Recorder, list[Message]]:
    app = Recorder()
    middleware = OriginGuardMiddleware(app, allowed, host)
    return app, call(middleware, http_scope("/client/v4/x", method, headers))


def is_allowed(
    headers: dict[str, str], *, allowed: Iterable[str] = (), host: str = "127.0.0.1"
) -> bool:
    app, sent = request(headers, allowed=allowed, host=host)
    assert status_of(sent) == (200 if app.scopes else 403)
    return bool(app.scopes)


@pytest.mark.parametrize(
    "origin",
    [
        "http://localhost",
        "http://localhost:3000",
        "https://app.localhost:8443",
        "http://127.0.0.1:5173",
        "http://127.1.2.3",
        "http://[::1]:8080",
    ],
)
def test_local_pages_may_call_and_get_cors_headers(origin: str) -> None:
    app, sent = request({"host": "127.0.0.1:8790", "origin": origin})
    assert len(app.scopes) == 1
    headers = headers_of(sent)
    assert headers["access-control-allow-origin"] == origin
    assert headers["access-control-allow-credentials"] == "true"
    assert "cf-ai-req-id" in headers["access-control-expose-headers"]


@pytest.mark.parametrize(
    "origin",
    [
        PAGE,
        "null",
        "",
        "http://localhost.page.example",
        "http://notlocalhost",
        "http://127.0.0.1.page.example",
        "http://page.example:80@localhost",
        "file://",
        "chrome-extension://abc",
    ],
)
def test_other_pages_are_refused(origin: str) -> None:
    app, sent = request({"host": "127.0.0.1:8790", "origin": origin})
    assert app.scopes == []
    assert status_of(sent) == 403
    (error,) = json.loads(body_of(sent))["errors"]
    assert error["code"] == 9109 and f"--allow-origin {origin}" in error["message"]
    assert "access-control-allow-origin" not in headers_of(sent)


def test_an_allowed_origin_may_call_and_others_may_not() -> None:
    assert is_allowed({"origin": PAGE}, allowed=[PAGE])
    assert not is_allowed({"origin": f"{PAGE}:8443"}, allowed=[PAGE])
    assert not is_allowed({"origin": "http://page.example"}, allowed=[PAGE])


def test_every_page_may_call_if_every_origin_is_allowed() -> None:
    assert is_allowed({"origin": PAGE, "host": "rebound.example"}, allowed=["*"])


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1:8790",
        "[::1]:8790",
        "192.168.1.5",
        "localhost:8790",
        "LOCALHOST",
        "emulator:8790",
        "app.localhost",
        "printer.local",
        "host.docker.internal",
        "x.test",
        "api.cloudflare.com",
        "gateway.ai.cloudflare.com.",
        "workers-binding.ai",
    ],
)
def test_hosts_that_public_dns_cannot_rebind_are_accepted(host: str) -> None:
    assert is_allowed({"host": host})


@pytest.mark.parametrize(
    "host", ["rebound.example", "rebound.example:8790", "localhost.example", "[::1", "x.com"]
)
def test_a_host_that_may_be_rebound_is_refused(host: str) -> None:
    assert not is_allowed({"host": host})


def test_the_host_that_the_server_listens_on_is_accepted() -> None:
    assert is_allowed({"host": "box.example:8790"}, host="box.example")
    assert not is_allowed({"host": "other.example:8790"}, host="box.example")


def test_the_host_of_an_allowed_origin_is_accepted() -> None:
    headers = {"host": "page.example", "origin": PAGE}
    assert is_allowed(headers, allowed=[PAGE])


def test_pages_that_this_server_sent_may_call() -> None:
    assert is_allowed({"host": "emulator:8790", "origin": "http://emulator:8790"})
    assert not is_allowed({"host": "emulator:8790", "origin": "http://emulator:8791"})


def test_a_client_that_is_not_a_browser_gets_no_cors_headers() -> None:
    _, sent = request({"host": "127.0.0.1:8790"})
    assert not [name for name in headers_of(sent) if name.startswith("access-control")]
    assert is_allowed({})


def test_a_preflight_request_of_a_local_page_is_answered_without_the_application() -> None:
    preflight = {
        "origin": "http://localhost:3000",
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization, x-emulator-fault",
        "access-control-request-private-network": "true",
    }
    app, sent = request(preflight, method="OPTIONS")
    headers = headers_of(sent)
    assert app.scopes == [] and status_of(sent) == 200
    assert headers["access-control-allow-headers"] == preflight["access-control-request-headers"]
    assert headers["access-control-allow-private-network"] == "true"
    _, sent = request(preflight | {"origin": PAGE}, method="OPTIONS")
    assert status_of(sent) == 403


def test_scopes_of_other_types_reach_the_application() -> None:
    app = Recorder()
    call(OriginGuardMiddleware(app, (), ""), {"type": "lifespan"})
    assert app.scopes == [{"type": "lifespan"}]
