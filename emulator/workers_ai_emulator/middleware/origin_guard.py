"""Which pages in a browser may talk to this server: local ones, and those that the user allows.

A page anywhere can make a browser send requests to 127.0.0.1. One on a foreign origin says so in
`Origin`; one whose own name was made to resolve to 127.0.0.1 (DNS rebinding) says so in `Host`.
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

from workers_ai_emulator.errors import ForeignOrigin
from workers_ai_emulator.wire.error_response import error_response

log = logging.getLogger(__name__)

_EXPOSED = (
    "cf-ai-req-id",
    "cf-aig-log-id",
    "cf-ray",
    "x-emulator-fault",
    "x-emulator-model",
)
_LOCAL_ORIGIN = r"https?://(([^/:]+\.)?localhost|127(\.\d{1,3}){3}|\[::1\])(:\d+)?"
# What bindings and redirected programs ask for.
_SERVICE_HOSTS = frozenset(
    {"api.cloudflare.com", "gateway.ai.cloudflare.com", "workers-binding.ai", "ai.cloudflare.com"}
)
# Names that no public DNS resolves: of one word, as containers have, or reserved [RFC 6761, 6762].
_PRIVATE_NAME = re.compile(r"[\w-]+|.+\.(localhost|local|internal|test)")


class OriginGuardMiddleware:
    """An ASGI application around another: refuses foreign pages, answers CORS for the others.

    `allowed_origins` are further ones, `*` stands for all; `host` is the name it listens on.
    """

    def __init__(self, app: ASGIApp, allowed_origins: Iterable[str], host: str) -> None:
        self._origins = frozenset(allowed_origins)
        self._hosts = (
            _SERVICE_HOSTS | {host} | {_host_of(origin) for origin in self._origins} - {""}
        )
        self._app = app
        self._sharing_app = CORSMiddleware(
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
        if (foreign := self._foreign_origin(headers)) is not None:
            log.warning("a page on %r was refused", foreign)
            await error_response(scope["path"], ForeignOrigin(foreign))(scope, receive, send)
        elif "origin" in headers:
            await self._sharing_app(scope, receive, send)
        else:  # no page, so nothing that the service does not send
            await self._app(scope, receive, send)

    def _foreign_origin(self, headers: Headers) -> str | None:
        """The origin of a page that may not call; None for all who may."""
        if "*" in self._origins:
            return None
        host, origin = headers.get("host"), headers.get("origin")
        if host and not self._is_own(_host_of(f"//{host}")):
            return f"http://{host}"
        is_known = (
            origin is None
            or origin in self._origins
            or re.fullmatch(_LOCAL_ORIGIN, origin)
            or origin.partition("://")[2] == host  # a page of this server, by whatever name
        )
        return None if is_known else origin

    def _is_own(self, host: str) -> bool:
        if host in self._hosts or _PRIVATE_NAME.fullmatch(host):
            return True
        try:
            ipaddress.ip_address(host)
        except ValueError:
            return False
        return True  # an address was not looked up, so nobody made it resolve to this one


def _host_of(url: str) -> str:
    """The name in a URL, in lower case; none where it cannot be read."""
    try:
        return (urlsplit(url).hostname or "").removesuffix(".")
    except ValueError:
        return ""
