"""Tests which web pages may call the emulator, and the CORS headers of the responses."""

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
    hosts: Iterable[str] = (),
    method: str = "POST",
) -> tuple[Recorder, list[Message]]:
    app = Recorder()
    middleware = OriginGuardMiddleware(app, allowed, hosts)
    return app, call(middleware, http_scope("/client/v4/x", method, headers))


def is_allowed(
    headers: dict[str, str],
    *,
    allowed: Iterable[str] = (),
    hosts: Iterable[str] = (),
    method: str = "POST",
) -> bool:
    app, sent = request(headers, allowed=allowed, hosts=hosts, method=method)
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
        "localhost.",
        "app.localhost",
        "api.cloudflare.com",
        "gateway.ai.cloudflare.com.",
        "workers-binding.ai",
    ],
)
def test_local_hosts_and_hosts_of_the_service_are_accepted(host: str) -> None:
    assert is_allowed({"host": host})


@pytest.mark.parametrize(
    "host",
    [
        "rebound.example",
        "rebound.example:8790",
        "localhost.example",
        "[::1",
        "x.com",
        "evil",
        "evil.local",
        "evil.internal:8790",
        "evil.test",
        "xlocalhost",
    ],
)
def test_a_host_that_may_be_rebound_is_refused(host: str) -> None:
    assert not is_allowed({"host": host})
    _, sent = request({"host": host})
    (error,) = json.loads(body_of(sent))["errors"]
    assert error["code"] == 9109 and "--allow-host" in error["message"]


def test_an_allowed_host_is_accepted_and_others_are_not() -> None:
    hosts = ["workers-ai", "Box.Example"]
    assert is_allowed({"host": "workers-ai:8790"}, hosts=hosts)
    assert is_allowed({"host": "box.example"}, hosts=hosts)
    assert not is_allowed({"host": "other"}, hosts=hosts)
    assert is_allowed({"host": "other"}, hosts=["*"])
    assert not is_allowed({"host": "other", "origin": PAGE}, hosts=["*"])


def test_the_host_of_an_allowed_origin_is_accepted() -> None:
    headers = {"host": "page.example", "origin": PAGE}
    assert is_allowed(headers, allowed=[PAGE])


def test_pages_that_this_server_sent_may_call() -> None:
    hosts = ["emulator"]
    assert is_allowed({"host": "emulator:8790", "origin": "http://emulator:8790"}, hosts=hosts)
    assert not is_allowed({"host": "emulator:8790", "origin": "http://emulator:8791"}, hosts=hosts)
    assert not is_allowed({"host": "emulator:8790", "origin": "http://emulator:8790"})


CROSS_SITE = {"host": "127.0.0.1:8790", "sec-fetch-site": "cross-site"}
LINK = {"sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("mode", ["no-cors", "cors", "navigate"])
def test_a_request_from_another_site_is_refused(method: str, mode: str) -> None:
    assert not is_allowed(CROSS_SITE | {"sec-fetch-mode": mode}, method=method)


def test_a_link_to_a_page_of_this_server_may_be_followed() -> None:
    assert is_allowed(CROSS_SITE | LINK, method="GET")
    assert not is_allowed(CROSS_SITE | LINK, method="POST")
    assert not is_allowed(CROSS_SITE | LINK | {"sec-fetch-dest": "iframe"}, method="GET")


@pytest.mark.parametrize("origin", ["http://localhost:3000", PAGE])
def test_an_allowed_page_of_another_site_may_call(origin: str) -> None:
    assert is_allowed(CROSS_SITE | {"origin": origin}, allowed=[PAGE])


@pytest.mark.parametrize("site", ["same-origin", "same-site", "none"])
def test_other_values_of_sec_fetch_site_are_accepted(site: str) -> None:
    assert is_allowed({"host": "127.0.0.1:8790", "sec-fetch-site": site})


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
    call(OriginGuardMiddleware(app, (), ()), {"type": "lifespan"})
    assert app.scopes == [{"type": "lifespan"}]
