"""Cloudflare's front: what every answer gets, and the log line of every request."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from workers_ai_emulator.backends.backend import StartedGeneration

log = logging.getLogger(__name__)

_API_PREFIX = "/client/v4/"
_DATA_CENTRE = "LHR"  # any: clients take the ray id as it comes
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
_BODY_LIMIT_S = 10  # for the rest of a body that nobody reads
_SLASHES = re.compile("/{2,}")


class EdgeMiddleware:
    """An ASGI application around another: stamps headers and writes one line per request."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # Some clients join a base URL and a path with a slash too many.
        scope["path"] = _SLASHES.sub("/", scope["path"])
        is_api = scope["path"].startswith(_API_PREFIX)
        start = time.monotonic()
        state: dict[str, Any] = scope.setdefault("state", {})
        body = _Body(scope, receive)
        status = 0

        async def stamp(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["cf-ray"] = f"{secrets.token_hex(8)}-{_DATA_CENTRE}"
                headers["server"] = "cloudflare"
                if is_api:
                    headers.update(_HEADERS)
                    headers.add_vary_header("Accept-Encoding")
                if is_api and _may_keep_alive(scope):
                    headers["connection"] = "keep-alive"
                    del headers["content-length"]  # so that uvicorn sends it chunked, as recorded
                await body.discard_rest()
            await send(message)

        try:
            await self._app(scope, body.receive, stamp)
        finally:
            elapsed_s = time.monotonic() - start
            line = f"{scope['method']} {scope['path']} {status or 'no answer'}"
            if "fault" in state:
                line += f", fault {state['fault']}"
            level = logging.DEBUG if scope["path"].startswith("/_emulator/") else logging.INFO
            _log_request(level, _printable(line), state.get("started"), elapsed_s)


class _Body:
    """A request's body on its way in.

    A refusal often needs no more of it, but a client that is still sending when the connection
    closes sees a reset instead of the answer: so the rest is read, and thrown away, before.
    """

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self._receive = receive
        self._is_asked_for = "expect" not in Headers(scope=scope)
        self._is_whole = False

    async def receive(self) -> Message:
        self._is_asked_for = True  # uvicorn now answers `Expect: 100-continue`
        message = await self._receive()
        self._is_whole = not message.get("more_body", False)
        return message

    async def discard_rest(self) -> None:
        try:
            async with asyncio.timeout(_BODY_LIMIT_S):
                while self._is_asked_for and not self._is_whole:
                    await self.receive()
        except TimeoutError:
            log.debug("the rest of a body did not come in %d s", _BODY_LIMIT_S)


def _may_keep_alive(scope: Scope) -> bool:
    close = "close" in Headers(scope=scope).get("connection", "").lower()
    return scope["http_version"] == "1.1" and not close


def _printable(text: str) -> str:
    """A path may hold line breaks and terminal codes."""
    return text if text.isprintable() else repr(text)


def _log_request(
    level: int, line: str, started: StartedGeneration | None, elapsed_s: float
) -> None:
    if started is None:
        log.log(level, "%s, %.2f s", line, elapsed_s)
        return
    usage, reason = started.generation.usage, started.generation.finish_reason
    log.info(
        "%s, %d prompt (%d cached) + %d completion tokens, %s, %.2f s",
        line,
        usage.num_prompt_tokens,
        usage.num_cached_tokens,
        usage.num_completion_tokens,
        reason.value if reason else "unfinished",
        elapsed_s,
    )
