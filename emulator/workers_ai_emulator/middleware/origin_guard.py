"""Refuses requests from web pages that are neither local nor allowed by the user.

Any web page can make a browser send requests to 127.0.0.1. The browser sends the page's origin in
the header `Origin`. A page can also make its own host name resolve to 127.0.0.1 (DNS rebinding);
the browser then sends that name in the header `Host`.
"""

from __future__ import annotations

import ipaddress
import logging
import re
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from workers_ai_emulator.wire.errors import FOREIGN_ORIGIN, WireError
from workers_ai_emulator.wire.responses import error_response

log = logging.getLogger(__name__)

_EXPOSED = (
    "cf-ai-req-id",
    "cf-aig-log-id",
    "cf-ray",
    "x-emulator-fault",
    "x-emulator-model",
)
_LOCAL_ORIGIN = r"https?://(([^/:]+\.)?localhost|127(\.\d{1,3}){3}|\[::1\])(:\d+)?"
# Cloudflare's host names, which bindings and programs under `exec` send in the header `Host`.
_SERVICE_HOSTS = frozenset(
    {"api.cloudflare.com", "gateway.ai.cloudflare.com", "workers-binding.ai", "ai.cloudflare.com"}
)
# Host names that public DNS does not resolve: single words, such as the names of containers, and
# names with reserved suffixes [RFC 6761, 6762].
_PRIVATE_NAME = re.compile(r"[\w-]+|.+\.(localhost|local|internal|test)")


class OriginGuardMiddleware:
    """Refuses requests of foreign web pages, and adds CORS headers to the responses to other pages.

    A page is foreign if its origin is neither local nor allowed by the user. `allowed_origins` are
    the origins that the user allows, `*` for all origins. `host` is the host name or address on
    which the server listens.
    """

    def __init__(self, app: ASGIApp, allowed_origins: Iterable[str], host: str) -> None:
        self._origins = frozenset(allowed_origins)
        self._hosts = (
            _SERVICE_HOSTS | {host} | {_host_of(origin) for origin in self._origins} - {""}
        )
        self._app = app
        self._cors_app = CORSMiddleware(
            app,
            allow_origins=[*self._origins],
            allow_origin_regex=_LOCAL_ORIGIN,
            allow_methods=["*"],
            allow_headers=["*"],
            allow_credentials=True,
            allow_private_network=True,
            expose_headers=_EXPOSED,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        foreign = self._foreign_origin(headers)
        if foreign is not None:
            log.warning("refused a request of a web page from %r", foreign)
            error = WireError(FOREIGN_ORIGIN, foreign)
            await error_response(scope["path"], error)(scope, receive, send)
        elif "origin" in headers:
            await self._cors_app(scope, receive, send)
        else:  # the client is not a web page, so it needs no CORS headers
            await self._app(scope, receive, send)

    def _foreign_origin(self, headers: Headers) -> str | None:
        """Returns the origin of the page that sent the request if the page is foreign.

        Returns None for all other requests.
        """
        if "*" in self._origins:
            return None
        host, origin = headers.get("host"), headers.get("origin")
        if host and not self._is_own(_host_of(f"//{host}")):
            return f"http://{host}"
        is_known = (
            origin is None
            or origin in self._origins
            or re.fullmatch(_LOCAL_ORIGIN, origin)
            or origin.partition("://")[2] == host  # the page is this server's dashboard
        )
        return None if is_known else origin

    def _is_own(self, host: str) -> bool:
        if host in self._hosts or _PRIVATE_NAME.fullmatch(host):
            return True
        try:
            ipaddress.ip_address(host)
        except ValueError:
            return False
        return True  # an IP address is safe: DNS rebinding needs a host name


def _host_of(url: str) -> str:
    """Returns the lower-case host name of a URL, or an empty text if the URL is invalid."""
    try:
        return (urlsplit(url).hostname or "").removesuffix(".")
    except ValueError:
        return ""
