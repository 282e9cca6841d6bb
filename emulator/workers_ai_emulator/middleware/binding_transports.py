"""The doors through which a Worker's binding comes in, and what it asked for behind them.

Miniflare's remote proxy sends all to one address and puts URL and headers into headers of its own;
wrangler 3 sends all to one path of the API. Both are made the request that the binding itself makes
to `workers-binding.ai`, which workerd sends as it is where this server is an external service.
"""

from __future__ import annotations

import re
from urllib.parse import unquote

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

_PROXY_PATH = re.compile(r"/client/v4/accounts/[0-9a-f]{32}/ai/run/proxy")
_URL = re.compile(r"(\w+://[^/?#]*)?(?P<path>[^?#]*)\??(?P<query>[^#]*)")
_MINIFLARE_PREFIX = b"mf-header-"


class BindingTransportMiddleware:
    """An ASGI application around another: rewrites what came in by a door."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            if url := headers.get("mf-url"):
                scope["headers"] = _forwarded(scope["headers"])
                _rewrite_target(url, scope)
            elif _PROXY_PATH.fullmatch(scope["path"]):
                scope["state"]["has_token"] = True  # wrangler sends its user's
                _rewrite_target(headers.get("x-forwarded") or _run_path(headers), scope)
        await self._app(scope, receive, send)


def _forwarded(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The headers inside Miniflare's, and what any request has."""
    ours = [(name, value) for name, value in headers if not name.startswith(b"mf-")]
    theirs = [
        (name.removeprefix(_MINIFLARE_PREFIX), value)
        for name, value in headers
        if name.startswith(_MINIFLARE_PREFIX)
    ]
    replaced = {name for name, _ in theirs}
    return [*((name, value) for name, value in ours if name not in replaced), *theirs]


def _rewrite_target(url: str, scope: Scope) -> None:
    parts = _URL.match(url)
    assert parts is not None  # every text has the form
    scope["path"] = unquote(parts["path"]) or "/"
    scope["query_string"] = parts["query"].encode()


def _run_path(headers: Headers) -> str:
    """Where a call goes of which wrangler 3.20 to 3.35 does not say it: by the SDK that made it."""
    sdk_version = headers.get("cf-consn-sdk-version", "")
    if sdk_version.startswith("2."):
        return "/run?version=3"
    return "/run?version=2" if sdk_version.startswith("1.1.") else "/run"
