"""The real service as an application: asks Cloudflare with the caller's own credentials."""

from __future__ import annotations

import logging

import httpx2
from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from workers_ai_emulator.errors import CredentialsMissing, ServiceUnreachable, SettingInvalid
from workers_ai_emulator.middleware.recordings.capture import is_own_header
from workers_ai_emulator.routes.gateway import PREFIX as GATEWAY_PREFIX
from workers_ai_emulator.routes.generation import MAX_BODY_BYTES
from workers_ai_emulator.wire.calls import read_body, while_connected

log = logging.getLogger(__name__)

_API_PREFIX = "/client/v4/"
_API_URL = "https://api.cloudflare.com"
_GATEWAY_URL = "https://gateway.ai.cloudflare.com"
_CREDENTIALS = ("authorization", "x-auth-key", "x-auth-user-service-key")
# No others: a browser's cookies, say, are none of the service's business.
_FORWARDED = {
    *_CREDENTIALS,
    "x-auth-email",
    "accept",
    "api-version",
    "content-encoding",
    "content-type",
    "user-agent",
    "x-session-affinity",
}
_FORWARDED_PREFIX = "cf-aig-"
_OF_BODY = ("content-encoding", "content-length")
_TIMEOUT = httpx2.Timeout(300, connect=10)  # seconds; models may think for minutes


class Cloudflare:
    """Passes calls on as they are, and answers as they come. It cannot serve bindings.

    `url` is where they go instead of Cloudflare's two hosts. Raises SettingInvalid.
    """

    def __init__(self, url: str | None = None) -> None:
        self._url = url and _checked(url)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises CredentialsMissing or ServiceUnreachable, before the first byte of an answer."""
        url = f"{self._host(scope)}{_written_path(scope)}"
        headers = _forwarded(Headers(scope=scope))
        body, _ = await read_body(receive, MAX_BODY_BYTES)
        request = httpx2.Request("POST", url, headers=headers, content=body)
        await while_connected(_ask(request, send), receive)

    def _host(self, scope: Scope) -> str:
        path, headers = scope["path"], Headers(scope=scope)
        if path.startswith(GATEWAY_PREFIX):  # a body may have the credentials there
            return self._url or _GATEWAY_URL
        if not path.startswith(_API_PREFIX):
            raise ServiceUnreachable(
                "only Cloudflare's own runtime reaches the real service through a binding; "
                "to record it, call its REST API"
            )
        if not any(name in headers for name in _CREDENTIALS):
            raise CredentialsMissing
        return self._url or _API_URL


def _checked(url: str) -> str:
    try:
        parsed = httpx2.URL(url)
    except httpx2.InvalidURL as error:
        raise SettingInvalid(f"--cloudflare-url: {url!r} is no URL: {error}") from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise SettingInvalid(f"--cloudflare-url takes an http or https URL, not {url!r}")
    return url.rstrip("/")


def _written_path(scope: Scope) -> str:
    """Path and query as the client wrote them: what `%2F` means is for the service to say."""
    path: bytes = scope["raw_path"]
    query: bytes = scope["query_string"]
    return (path + b"?" + query if query else path).decode("latin-1")


async def _ask(request: httpx2.Request, send: Send) -> None:
    has_begun = False
    try:
        async with httpx2.AsyncClient(timeout=_TIMEOUT) as client:
            response = await client.send(request, stream=True)
            try:
                start = {"type": "http.response.start", "status": response.status_code}
                await send(start | {"headers": _own_headers(response.headers)})
                has_begun = True
                async for chunk in response.aiter_raw():
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
                await send({"type": "http.response.body"})
            finally:
                await response.aclose()
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        reason = f"{request.url.host}: {str(error) or type(error).__name__}"
        if not has_begun:
            raise ServiceUnreachable(f"the real service cannot be asked: {reason}") from error
        # The answer has begun, so that it breaks off is all that can be said.
        log.error("an answer of the real service breaks off: %s", reason)


def _forwarded(headers: Headers) -> list[tuple[str, str]]:
    """What the service sees of the caller. Compressed answers would make unreadable recordings."""
    forwarded = [
        (name, value)
        for name, value in headers.items()
        if name in _FORWARDED or name.startswith(_FORWARDED_PREFIX)
    ]
    return [*forwarded, ("accept-encoding", "identity")]


def _own_headers(headers: httpx2.Headers) -> list[tuple[bytes, bytes]]:
    """The answer's own headers; those of the connection to Cloudflare end here."""
    kept = [
        (name.encode("latin-1"), value.encode("latin-1"))
        for name, value in headers.items()
        if is_own_header(name) or name in _OF_BODY
    ]
    return [*kept, (b"x-emulator-model", b"cloudflare")]
