"""Cloudflare's edge: the headers that it adds to every response. Also logs each request."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from workers_ai_emulator.wire.context import CallContext, context_of
from workers_ai_emulator.wire.endpoints import CONTROL_PREFIX
from workers_ai_emulator.wire.redaction import Redaction

log = logging.getLogger(__name__)

_API_PREFIX = "/client/v4/"
_DATA_CENTRE = "LHR"  # clients do not interpret the suffix of `cf-ray`
# Recorded on another endpoint of the API [cloudflare-typescript#161], so inferred here.
_HEADERS = {
    "cache-control": "no-store, no-cache, must-revalidate, post-check=0, pre-check=0",
    "cf-cache-status": "DYNAMIC",
    "expires": "Sun, 25 Jan 1981 05:00:00 GMT",
    "pragma": "no-cache",
    "strict-transport-security": "max-age=31536000",
    "x-content-type-options": "nosniff",
    "x-frame-options": "SAMEORIGIN",
}
_REST_LIMIT_S = 10  # for receiving the unread rest of a body
_SLASHES = re.compile("/{2,}")


class EdgeMiddleware:
    """Adds the edge's headers, merges repeated slashes in paths, and logs one line per request."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # Some clients join a base URL and a path with one slash too many.
        scope["path"] = _SLASHES.sub("/", scope["path"])
        start = time.monotonic()
        response = _Response(scope, _Body(scope, receive), send)
        try:
            await self._app(scope, response.body.receive, response.send)
        finally:
            _log_request(scope, response.status, time.monotonic() - start)


class _Response:
    """Sends a response with the edge's headers, once the request's body has been received."""

    def __init__(self, scope: Scope, body: _Body, send: Send) -> None:
        self.status = 0
        self.body = body
        self._scope = scope
        self._is_api = scope["path"].startswith(
            _API_PREFIX
        )  # as sent: bindings' paths are rewritten
        self._send = send

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self._add_headers(MutableHeaders(scope=message))
            await self.body.discard_rest()
        await self._send(message)

    def _add_headers(self, headers: MutableHeaders) -> None:
        headers["cf-ray"] = f"{secrets.token_hex(8)}-{_DATA_CENTRE}"
        headers["server"] = "cloudflare"
        if not self._is_api:
            return
        headers.update(_HEADERS)
        headers.add_vary_header("Accept-Encoding")
        if _may_keep_alive(self._scope):
            headers["connection"] = "keep-alive"
            del headers["content-length"]  # uvicorn then sends the body chunked, as recorded


class _Body:
    """A request's body while it is received.

    An error is often sent before the whole body has been read. A client that still sends when the
    connection closes sees a reset instead of the response, so the rest is received and discarded.
    """

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self._receive = receive
        self._is_requested = "expect" not in Headers(scope=scope)
        self._is_whole = False

    async def receive(self) -> Message:
        self._is_requested = True  # uvicorn now answers `Expect: 100-continue`
        message = await self._receive()
        self._is_whole = not message.get("more_body", False)
        return message

    async def discard_rest(self) -> None:
        try:
            async with asyncio.timeout(_REST_LIMIT_S):
                while self._is_requested and not self._is_whole:
                    await self.receive()
        except TimeoutError:
            log.debug("the rest of a body did not arrive within %d s", _REST_LIMIT_S)


def _may_keep_alive(scope: Scope) -> bool:
    close = "close" in Headers(scope=scope).get("connection", "").lower()
    return scope["http_version"] == "1.1" and not close


def _log_request(scope: Scope, status: int, elapsed_s: float) -> None:
    context = context_of(scope)
    redaction = context.redaction or Redaction.of(scope)
    line = f"{scope['method']} {redaction.path(scope['path'])} {status or 'no response'}"
    if context.fault is not None:
        line += f", fault {context.fault}"
    if context.started is None:
        is_control = scope["path"].startswith(f"{CONTROL_PREFIX}/")
        level = logging.DEBUG if is_control else logging.INFO
        log.log(level, "%s, %.2f s", _printable(line), elapsed_s)
    else:
        log.info("%s, %s, %.2f s", _printable(line), _tokens(context), elapsed_s)


def _tokens(context: CallContext) -> str:
    """Describes the generation: its token counts, and why it ended."""
    assert context.started is not None
    generation = context.started.generation
    usage, reason = generation.usage, generation.finish_reason
    return (
        f"{usage.num_prompt_tokens} prompt ({usage.num_cached_tokens} cached) + "
        f"{usage.num_completion_tokens} completion tokens, "
        f"{reason.value if reason else 'unfinished'}"
    )


def _printable(text: str) -> str:
    """A path may contain line breaks and terminal escapes; such a text is quoted."""
    return text if text.isprintable() else repr(text)
