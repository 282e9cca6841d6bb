"""Restores the requests of AI bindings (a Worker's `env.AI`), which development tools wrap.

Two tools send a binding's request inside a request to another URL:
- Miniflare's remote proxy uses one URL for all requests. The headers `mf-url` and `mf-header-NAME`
  contain the URL and the headers of the binding's request.
- wrangler 3.20 to 4.35 uses one path of Cloudflare's API for all requests. From 3.90 on, the header
  `x-forwarded` contains the URL of the binding's request.

`routes/binding.py` handles the restored requests.
"""

from __future__ import annotations

import re
from urllib.parse import unquote

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from workers_ai_emulator.wire.calls import SDK_VERSION_HEADER
from workers_ai_emulator.wire.context import context_of

_PROXY_PATH = re.compile(r"/client/v4/accounts/[0-9a-f]{32}/ai/run/proxy")
_URL = re.compile(r"(\w+://[^/?#]*)?(?P<path>[^?#]*)\??(?P<query>[^#]*)")
_MINIFLARE_PREFIX = b"mf-header-"
_MINIFLARE_HOST = b"mf-header-host"


class BindingTransportMiddleware:
    """Restores the original path, query and headers of AI bindings' wrapped requests."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            if url := headers.get("mf-url"):
                scope["headers"] = _unwrapped(scope["headers"])
                _rewrite_target(url, scope)
            elif _PROXY_PATH.fullmatch(scope["path"]):
                context_of(scope).needs_token = True  # wrangler sends a token, so check it
                _rewrite_target(headers.get("x-forwarded") or _run_path(headers), scope)
        await self._app(scope, receive, send)


def _unwrapped(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Returns the headers of a binding's request, which Miniflare sends as `mf-header-NAME`.

    Also returns each header of Miniflare's own request, if the binding's request has no header of
    that name. The header `Host` is always that of Miniflare's own request, because the server
    decides by it whether the request comes from this machine.
    """
    outer = [(name, value) for name, value in headers if not name.startswith(b"mf-")]
    inner = [
        (name.removeprefix(_MINIFLARE_PREFIX), value)
        for name, value in headers
        if name.startswith(_MINIFLARE_PREFIX) and name != _MINIFLARE_HOST
    ]
    replaced = {name for name, _ in inner}
    return [*((name, value) for name, value in outer if name not in replaced), *inner]


def _rewrite_target(url: str, scope: Scope) -> None:
    parts = _URL.match(url)
    assert parts is not None  # the pattern matches every text
    scope["path"] = unquote(parts["path"]) or "/"
    scope["query_string"] = parts["query"].encode()


def _run_path(headers: Headers) -> str:
    """Returns the path and query of a binding's request that wrangler 3.20 to 3.89 has wrapped.

    These versions of wrangler do not send the URL of the binding's request. So its path and query
    are derived from the version of the Worker's SDK, which a header contains.
    """
    sdk_version = headers.get(SDK_VERSION_HEADER, "")
    if sdk_version.startswith("2."):
        return "/run?version=3"
    return "/run?version=2" if sdk_version.startswith("1.1.") else "/run"
