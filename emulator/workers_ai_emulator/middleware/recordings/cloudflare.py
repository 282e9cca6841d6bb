"""An ASGI application that forwards calls to Cloudflare with the client's own credentials."""

from __future__ import annotations

import logging
from contextlib import suppress

import httpx2
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from workers_ai_emulator.errors import SettingInvalid
from workers_ai_emulator.middleware.recordings.capture import is_response_header
from workers_ai_emulator.network import check_certificates, proxy_for
from workers_ai_emulator.urls import but_not, has_at_sign_after_host
from workers_ai_emulator.wire.body import read_body
from workers_ai_emulator.wire.disconnect import while_connected
from workers_ai_emulator.wire.endpoints import GATEWAY_PREFIX
from workers_ai_emulator.wire.errors import CREDENTIALS_MISSING, SERVICE_UNREACHABLE, WireError

log = logging.getLogger(__name__)

_API_PREFIX = "/client/v4/"
_API_URL = "https://api.cloudflare.com"
_GATEWAY_URL = "https://gateway.ai.cloudflare.com"
_CREDENTIALS = ("authorization", "x-auth-key", "x-auth-user-service-key")
# Only these request headers are forwarded to Cloudflare; cookies, for example, are not.
_FORWARDED = {
    *_CREDENTIALS,
    "x-auth-email",
    "accept",
    "api-version",
    "content-encoding",
    "content-type",
    "user-agent",
    "x-session-affinity",
    "cf-cache-ttl",
    "cf-skip-cache",
}
_FORWARDED_PREFIX = "cf-aig-"
_BODY_HEADERS = ("content-encoding", "content-length")
_TIMEOUT = httpx2.Timeout(300, connect=10)  # seconds; a completion may take minutes


class Cloudflare:
    """Forwards calls to Cloudflare, and responses to the client.

    Refuses calls that a Worker makes through `env.AI`, because only Cloudflare's own runtime can
    send them to the service.

    `url`: a URL that replaces the URLs of Cloudflare's API and of AI Gateway; None: their real URLs
    are used. Raises SettingInvalid if `url` is not a valid URL, or if an environment variable for
    proxies or certificates is invalid.
    """

    def __init__(self, url: str | None = None) -> None:
        self._url = url and _checked(url)
        check_certificates()
        hosts = [self._url] if self._url else [_API_URL, _GATEWAY_URL]
        self._proxies = {host: proxy_for(host) for host in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forwards one call to Cloudflare, and the response to the client.

        If the call cannot be forwarded, raises WireError before it sends anything to the client.
        """
        host = self._host(scope)
        url = f"{host}{_raw_target(scope)}"
        headers = _forwarded(Headers(scope=scope))
        body, _ = await read_body(receive)
        request = httpx2.Request("POST", url, headers=headers, content=body)
        with suppress(ClientDisconnect):
            await while_connected(_forward(request, self._proxies[host], send), receive)

    def _host(self, scope: Scope) -> str:
        path, headers = scope["path"], Headers(scope=scope)
        # AI Gateway also accepts credentials in the body, so the headers need not contain any.
        if path.startswith(GATEWAY_PREFIX):
            return self._url or _GATEWAY_URL
        if not path.startswith(_API_PREFIX):
            raise WireError(
                SERVICE_UNREACHABLE,
                "only Cloudflare's own runtime reaches the real service through a binding; "
                "to record it, call its REST API",
            )
        if not any(name in headers for name in _CREDENTIALS):
            raise WireError(CREDENTIALS_MISSING)
        return self._url or _API_URL


def _checked(url: str) -> str:
    if has_at_sign_after_host(url):
        raise SettingInvalid(
            "--cloudflare-url takes `/` in a password only as %2F (`?` as %3F, `#` as %23), and "
            "`@` in a path only as %40"
        )
    try:
        parsed = httpx2.URL(url)
    except httpx2.InvalidURL as error:
        reason = "" if "@" in url else f": {error}"  # the reason may contain a part of a password
        raise SettingInvalid(f"--cloudflare-url takes a URL{but_not(url)}{reason}") from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise SettingInvalid(f"--cloudflare-url takes an http or https URL{but_not(url)}")
    return url.rstrip("/")


def _raw_target(scope: Scope) -> str:
    """Returns the request's path and query with the percent-encoding that the client sent.

    Decoding would change the path: `%2F` would become a slash.
    """
    path: bytes = scope["raw_path"]
    query: bytes = scope["query_string"]
    return (path + b"?" + query if query else path).decode("latin-1")


async def _forward(request: httpx2.Request, proxy: str | None, send: Send) -> None:
    has_begun = False
    try:
        transport = httpx2.AsyncHTTPTransport(proxy=proxy)
        async with httpx2.AsyncClient(timeout=_TIMEOUT, transport=transport) as client:
            response = await client.send(request, stream=True)
            try:
                start = {"type": "http.response.start", "status": response.status_code}
                await send(start | {"headers": _response_headers(response.headers)})
                has_begun = True
                async for chunk in response.aiter_raw():
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
                await send({"type": "http.response.body"})
            finally:
                await response.aclose()
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        reason = f"{request.url.host}: {str(error) or type(error).__name__}"
        if not has_begun:
            raise WireError(
                SERVICE_UNREACHABLE,
                f"the real service cannot be asked: {reason}: check the network and the proxy "
                "(HTTPS_PROXY), or send only recorded responses with --record-mode none",
            ) from error
        # The client already has the status, so it can notice the error only by the incomplete
        # response.
        log.error("a response of the real service breaks off: %s", reason)


def _forwarded(headers: Headers) -> list[tuple[bytes, bytes]]:
    """Returns the request headers that are forwarded to Cloudflare, with the bytes that arrived.

    Adds `accept-encoding: identity`, because a compressed response would not be readable in a
    recording.
    """
    forwarded = [pair for pair in headers.raw if _is_forwarded(pair[0].decode("latin-1"))]
    return [*forwarded, (b"accept-encoding", b"identity")]


def _is_forwarded(name: str) -> bool:
    return name in _FORWARDED or name.startswith(_FORWARDED_PREFIX)


def _response_headers(headers: httpx2.Headers) -> list[tuple[bytes, bytes]]:
    """Returns the headers of Cloudflare's response that are forwarded to the client.

    Joins the values of headers with the same name, because a recording has one value for a name.
    Adds `x-emulator-model: cloudflare`.
    """
    merged: dict[bytes, bytes] = {}
    for name, value in ((name.lower(), value) for name, value in headers.raw):
        merged[name] = merged[name] + b", " + value if name in merged else value
    forwarded = [
        (name, value)
        for name, value in merged.items()
        if is_response_header(text := name.decode("latin-1")) or text in _BODY_HEADERS
    ]
    return [*forwarded, (b"x-emulator-model", b"cloudflare")]
