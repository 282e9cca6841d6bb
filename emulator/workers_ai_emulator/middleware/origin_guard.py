"""Refuses requests from web pages that are neither local nor allowed by the user.

Any web page can make a browser send requests to 127.0.0.1. The browser sends the page's origin in
the header `Origin`, or `cross-site` in `Sec-Fetch-Site`. A page can also make its own host name
resolve to 127.0.0.1 (DNS rebinding); the browser then sends that name in the header `Host`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from workers_ai_emulator.network import address_of, is_localhost
from workers_ai_emulator.wire.errors import FOREIGN_PAGE, WireError
from workers_ai_emulator.wire.hosts import SERVICE_HOSTS, host_of
from workers_ai_emulator.wire.responses import error_response

log = logging.getLogger(__name__)

_EXPOSED = (
    "cf-ai-neurons",
    "cf-ai-req-id",
    "cf-aig-cache-status",
    "cf-aig-log-id",
    "cf-ray",
    "x-emulator-fault",
    "x-emulator-model",
)
_LOCAL_ORIGIN = r"https?://(([^/:]+\.)?localhost|127(\.\d{1,3}){3}|\[::1\])(:\d+)?"


class OriginGuardMiddleware:
    """Refuses requests of foreign web pages, and adds CORS headers to the responses to other pages.

    A page is foreign if its origin is neither local nor in `allowed_origins`. A page is also
    foreign if its requests use a host name that is neither local nor in `allowed_hosts`. `*` allows
    all origins or all hosts.
    """

    def __init__(
        self, app: ASGIApp, allowed_origins: Iterable[str], allowed_hosts: Iterable[str]
    ) -> None:
        self._origins = frozenset(allowed_origins)
        origin_hosts = {host_of(origin) for origin in self._origins} - {""}
        self._hosts = SERVICE_HOSTS | origin_hosts | {host.lower() for host in allowed_hosts}
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
        if reason := self._refusal(headers, scope["method"]):
            log.warning("refused a request of a web page: %s", reason)
            error = WireError(FOREIGN_PAGE, reason)
            await error_response(scope["path"], error)(scope, receive, send)
        elif "origin" in headers:
            await self._cors_app(scope, receive, send)
        else:  # the client is not a web page, so it needs no CORS headers
            await self._app(scope, receive, send)

    def _refusal(self, headers: Headers, method: str) -> str | None:
        """Returns the reason to refuse the request of a foreign page; None for other requests."""
        host, origin = headers.get("host"), headers.get("origin")
        if host and not self._is_own(name := host_of(f"//{host}")):
            return _reason(f"{name or repr(host)} is not a local host name", f"--allow-host {name}")
        if "*" in self._origins:
            return None
        if origin is not None and not self._is_known(origin, host):
            return _reason(f"{origin} is not a local origin", f"--allow-origin {origin}")
        is_foreign = origin is None and headers.get("sec-fetch-site") == "cross-site"
        if is_foreign and not _is_link(headers, method):
            return _reason("a page of another site has sent the request", "--allow-origin")
        return None

    def _is_known(self, origin: str, host: str | None) -> bool:
        is_dashboard = origin.partition("://")[2] == host  # the page comes from this server
        return (
            is_dashboard
            or origin in self._origins
            or re.fullmatch(_LOCAL_ORIGIN, origin) is not None
        )

    def _is_own(self, host: str) -> bool:
        """Returns whether `host`, the host of a request's URL, is a safe name of this server.

        A host is safe if it is an IP address, a `localhost` name, or a name that the user allows.
        All other names are unsafe, because an attacker may choose the address to which they
        resolve. For example, any machine in the network can choose the address of `printer.local`.
        """
        if "*" in self._origins or "*" in self._hosts:
            return True
        return host in self._hosts or is_localhost(host) or address_of(host) is not None


def _reason(problem: str, setting: str) -> str:
    return f"{problem}. To allow it, start the emulator with {setting}"


def _is_link(headers: Headers, method: str) -> bool:
    """Returns whether the user has followed a link to a page of this server, such as the dashboard.

    Following a link is safe, because the page with the link cannot read the response.
    """
    mode, destination = headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest")
    return method in ("GET", "HEAD") and mode == "navigate" and destination == "document"
