"""Adds the headers that Cloudflare's edge servers add to each response, and logs each request."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from workers_ai_emulator.middleware.log_line import MAX_ERROR_BYTES, Sent, log_line
from workers_ai_emulator.wire.context import context_of
from workers_ai_emulator.wire.endpoints import CONTROL_PREFIX
from workers_ai_emulator.wire.hints import hint_of

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
        sent = Sent()
        response = _Response(scope, _Body(scope, receive, sent), send, sent)
        try:
            await self._app(scope, response.body.receive, response.send)
        finally:
            _log_request(scope, sent, time.monotonic() - start)


class _Response:
    """Adds Cloudflare's headers to a response. Reads the whole request body before the response."""

    def __init__(self, scope: Scope, body: _Body, send: Send, sent: Sent) -> None:
        self.body = body
        self._sent = sent
        self._scope = scope
        # Checks the path that the client sent, because `binding_transports.py` may replace it
        # later.
        self._is_api = scope["path"].startswith(_API_PREFIX)
        self._send = send

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._sent.status = message["status"]
            message["headers"] = self._with_edge_headers(message["headers"])
            if not self.body.is_done:
                await self.body.discard_rest()
        elif message["type"] == "http.response.body":
            self._observe(message)
        await self._send(message)

    def _observe(self, message: Message) -> None:
        """Stores what the log line of the request needs from a part of the response's body."""
        self._sent.is_complete = not message.get("more_body", False)
        if self._sent.status >= HTTPStatus.BAD_REQUEST:
            num_left = MAX_ERROR_BYTES - len(self._sent.error_body)
            self._sent.error_body += message.get("body", b"")[:num_left]

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

    def __init__(self, scope: Scope, receive: Receive, sent: Sent) -> None:
        self._receive = receive
        self._sent = sent
        self._is_requested = "expect" not in Headers(scope=scope)
        self._is_whole = False

    async def receive(self) -> Message:
        self._is_requested = True  # uvicorn now sends `100 Continue` if the client waits for it
        message = await self._receive()
        self._is_whole = not message.get("more_body", False)
        if message["type"] == "http.disconnect":
            self._sent.is_disconnected |= not self._sent.is_complete
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


def _log_request(scope: Scope, sent: Sent, elapsed_s: float) -> None:
    error = context_of(scope).error
    hint = "" if error is None else hint_of(scope, error)
    level = _level(scope, sent, hint)
    if log.isEnabledFor(level):
        line = log_line(scope, sent, hint, has_excerpt=log.isEnabledFor(logging.DEBUG))
        log.log(level, "%s, %.2f s", line, elapsed_s)


def _level(scope: Scope, sent: Sent, hint: str) -> int:
    """Returns the level of a request's log line. A line with a hint for the user is a warning.

    The exception is `/`, which programs request to find out whether a server runs.
    """
    if hint and scope["path"] != "/":
        return logging.WARNING
    return logging.DEBUG if _is_quiet(scope, sent) else logging.INFO


def _is_quiet(scope: Scope, sent: Sent) -> bool:
    """Returns whether a request is logged only at the level `debug`.

    These are requests to the emulator's own endpoints, which the dashboard and health checks send
    all the time, except refused requests that would have changed something.
    """
    if not scope["path"].startswith(f"{CONTROL_PREFIX}/") or context_of(scope).started is not None:
        return False
    return scope["method"] == "GET" or sent.status < HTTPStatus.BAD_REQUEST
