"""Adds the headers that Cloudflare's edge servers add to each response, and logs each request."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from workers_ai_emulator.wire.context import CallContext, context_of
from workers_ai_emulator.wire.endpoints import CONTROL_PREFIX
from workers_ai_emulator.wire.redaction import Redaction

log = logging.getLogger(__name__)

RawHeaders = list[tuple[bytes, bytes]]

_API_PREFIX = "/client/v4/"
_DATA_CENTRE = "LHR"  # London; the header `cf-ray` ends with the code of a data centre
# These headers were recorded for another endpoint of Cloudflare's API [cloudflare-typescript#161].
# We assume that Workers AI sends them too.
_API_HEADERS = {
    b"cache-control": b"no-store, no-cache, must-revalidate, post-check=0, pre-check=0",
    b"cf-cache-status": b"DYNAMIC",
    b"expires": b"Sun, 25 Jan 1981 05:00:00 GMT",
    b"pragma": b"no-cache",
    b"strict-transport-security": b"max-age=31536000",
    b"x-content-type-options": b"nosniff",
    b"x-frame-options": b"SAMEORIGIN",
}
# The maximum time to wait for the rest of a request body that the application reads only in part.
_MAX_ERROR_LENGTH = 300  # characters of an error text in the log
_REST_LIMIT_S = 10
_SLASHES = re.compile("/{2,}")


class EdgeMiddleware:
    """Adds Cloudflare's headers to responses, merges repeated slashes in paths, logs requests."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # A client sends `//` if its base URL ends with a slash and the path begins with one.
        scope["path"] = _SLASHES.sub("/", scope["path"])
        start = time.monotonic()
        response = _Response(scope, _Body(scope, receive), send)
        try:
            await self._app(scope, response.body.receive, response.send)
        finally:
            _log_request(scope, response.status, time.monotonic() - start)


class _Response:
    """Adds Cloudflare's headers to a response. Reads the whole request body before the response."""

    def __init__(self, scope: Scope, body: _Body, send: Send) -> None:
        self.status = 0
        self.body = body
        self._scope = scope
        # Checks the path that the client sent, because `binding_transports.py` may replace it
        # later.
        self._is_api = scope["path"].startswith(_API_PREFIX)
        self._send = send

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = self._with_edge_headers(message["headers"])
            if not self.body.is_done:
                await self.body.discard_rest()
        await self._send(message)

    def _with_edge_headers(self, headers: RawHeaders) -> RawHeaders:
        ray = f"{secrets.token_hex(8)}-{_DATA_CENTRE}"
        added = {b"cf-ray": ray.encode(), b"server": b"cloudflare"}
        if self._is_api:
            vary = [value for name, value in headers if name == b"vary"]
            added |= _API_HEADERS | {b"vary": b", ".join([*vary, b"Accept-Encoding"])}
            if _may_keep_alive(self._scope):
                added[b"connection"] = b"keep-alive"
                # Without a length, uvicorn uses chunked encoding, as Cloudflare does.
                headers = [header for header in headers if header[0] != b"content-length"]
        return _merged(headers, added)


class _Body:
    """Receives a request's body, and discards the part that the application has not read.

    The application may send an error before it has read the whole body. If the server then closed
    the connection, a client that is still sending the body could get a connection reset instead of
    the error. So the rest of the body is received first.
    """

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self._receive = receive
        self._is_requested = "expect" not in Headers(scope=scope)
        self._is_whole = False

    async def receive(self) -> Message:
        self._is_requested = True  # uvicorn now sends `100 Continue` if the client waits for it
        message = await self._receive()
        self._is_whole = not message.get("more_body", False)
        return message

    @property
    def is_done(self) -> bool:
        """Whether no further part of the body is expected."""
        return self._is_whole or not self._is_requested

    async def discard_rest(self) -> None:
        try:
            async with asyncio.timeout(_REST_LIMIT_S):
                while not self.is_done:
                    await self.receive()
        except TimeoutError:
            log.debug("the rest of a body did not arrive within %d s", _REST_LIMIT_S)


def _merged(headers: RawHeaders, added: dict[bytes, bytes]) -> RawHeaders:
    """Returns `headers` and `added`. A header in `added` replaces the headers of the same name."""
    left = dict(added)
    merged = [
        (name, left.pop(name, value))
        for name, value in headers
        if name in left or name not in added
    ]
    return [*merged, *left.items()]


def _may_keep_alive(scope: Scope) -> bool:
    close = "close" in Headers(scope=scope).get("connection", "").lower()
    return scope["http_version"] == "1.1" and not close


def _log_request(scope: Scope, status: int, elapsed_s: float) -> None:
    context = context_of(scope)
    is_control = scope["path"].startswith(f"{CONTROL_PREFIX}/")
    level = logging.DEBUG if is_control and context.started is None else logging.INFO
    if not log.isEnabledFor(level):
        return
    redaction = context.redaction or Redaction.of(scope)
    line = f"{scope['method']} {redaction.path(scope['path'])} {status or 'no response'}"
    if context.fault is not None:
        line += f", fault {context.fault}"
    parts = [_printable(line)]
    if context.error is not None:
        text = redaction.text(str(context.error)[:_MAX_ERROR_LENGTH], is_cut=True)
        parts.append(f"{context.error.type.code}: {_printable(text)}")
    if context.started is not None:
        parts.append(_tokens(context))
    log.log(level, "%s, %.2f s", ", ".join(parts), elapsed_s)


def _tokens(context: CallContext) -> str:
    """Returns the token counts and the finish reason of a request's generation, for the log."""
    assert context.started is not None
    generation = context.started.generation
    usage, reason = generation.usage, generation.finish_reason
    return (
        f"{usage.num_prompt_tokens} prompt ({usage.num_cached_tokens} cached) + "
        f"{usage.num_completion_tokens} completion tokens, "
        f"{reason.value if reason else 'unfinished'}"
    )


def _printable(text: str) -> str:
    """Escapes control characters, such as line breaks, which a request's path may contain."""
    return text if text.isprintable() else repr(text)
