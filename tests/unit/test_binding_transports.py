"""Tests unwrapping requests of bindings that Miniflare's remote proxy or wrangler 3 has wrapped."""

from __future__ import annotations

import pytest
from starlette.types import Scope
from workers_ai_emulator.middleware.binding_transports import BindingTransportMiddleware
from workers_ai_emulator.wire.context import context_of

from tests.asgi import Recorder, call, http_scope
from tests.server import ACCOUNT_ID, INT8

PROXY_PATH = f"/client/v4/accounts/{ACCOUNT_ID}/ai/run/proxy"


def unwrapped(scope: Scope) -> Scope:
    """Returns the scope with which the middleware calls the application."""
    app = Recorder()
    call(BindingTransportMiddleware(app), scope)
    (found,) = app.scopes
    return found


def target_of(scope: Scope) -> tuple[str, bytes]:
    return scope["path"], scope["query_string"]


@pytest.mark.parametrize(
    ("url", "path", "query"),
    [
        ("http://workers-binding.ai/run?version=3", "/run", b"version=3"),
        ("https://workers-binding.ai/ai-gateway/run", "/ai-gateway/run", b""),
        ("http://workers-binding.ai/a%20b?c=d%20e#f", "/a b", b"c=d%20e"),
        ("http://workers-binding.ai", "/", b""),
        ("/run?version=2", "/run", b"version=2"),
        ("?x", "/", b"x"),
    ],
)
def test_miniflare_sends_the_url_in_a_header(url: str, path: str, query: bytes) -> None:
    scope = unwrapped(http_scope("/anything", headers={"mf-url": url}))
    assert target_of(scope) == (path, query)


def test_miniflare_sends_the_bindings_headers_with_a_prefix() -> None:
    headers = {
        "host": "127.0.0.1:8790",
        "user-agent": "Miniflare",
        "mf-url": "http://workers-binding.ai/run",
        "mf-binding": "AI",
        "mf-header-cf-consn-model-id": INT8,
        "mf-header-user-agent": "Worker",
    }
    assert unwrapped(http_scope(headers=headers))["headers"] == [
        (b"host", b"127.0.0.1:8790"),
        (b"cf-consn-model-id", INT8.encode()),
        (b"user-agent", b"Worker"),
    ]


def test_a_wrapped_request_cannot_hide_that_it_was_forwarded() -> None:
    headers = {
        "host": "emulator.example",
        "x-forwarded-for": "203.0.113.7",
        "mf-url": "/run",
        "mf-header-host": "127.0.0.1",
        "mf-header-x-forwarded-for": "",
    }
    scope = unwrapped(http_scope(headers=headers))
    assert dict(scope["headers"])[b"host"] == b"emulator.example"
    assert b"x-forwarded-for" in dict(scope["headers"])


def test_wrangler_3_sends_the_path_in_a_header() -> None:
    scope = http_scope(PROXY_PATH, headers={"x-forwarded": "/run?version=3", "x-other": "1"})
    found = unwrapped(scope)
    assert target_of(found) == ("/run", b"version=3")
    assert (b"x-other", b"1") in found["headers"]


@pytest.mark.parametrize(
    ("sdk_version", "query"),
    [
        (None, b""),
        ("1.0.53", b""),
        ("1.1.0", b"version=2"),
        ("2.0.0", b"version=3"),
        ("2.10.1", b"version=3"),
    ],
)
def test_early_versions_of_wrangler_3_send_only_the_version_of_the_sdk(
    sdk_version: str | None, query: bytes
) -> None:
    headers = {} if sdk_version is None else {"cf-consn-sdk-version": sdk_version}
    assert target_of(unwrapped(http_scope(PROXY_PATH, headers=headers))) == ("/run", query)


def test_only_wrangler_3_sends_its_users_token() -> None:
    wrangler = http_scope(PROXY_PATH, headers={"x-forwarded": "/run"})
    miniflare = http_scope(headers={"mf-url": "http://workers-binding.ai/run"})
    assert context_of(unwrapped(wrangler)).needs_token
    assert not context_of(unwrapped(miniflare)).needs_token


@pytest.mark.parametrize(
    "path",
    ["/run", f"{PROXY_PATH}/x", PROXY_PATH.replace(ACCOUNT_ID, "x"), f"/ai/run/{INT8}"],
)
def test_other_requests_are_not_changed(path: str) -> None:
    headers = {"x-forwarded": "/run", "mf-header-x": "1"}
    scope = http_scope(path, headers=headers, query_string=b"a=1")
    before = {**scope}
    assert unwrapped(scope) == before


def test_scopes_of_other_types_are_not_changed() -> None:
    assert unwrapped({"type": "lifespan"}) == {"type": "lifespan"}
