"""Records calls and their responses, while the responses are sent to the client."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from workers_ai_emulator.engine.types import FinishReason
from workers_ai_emulator.middleware.recordings.capture import ResponseCapture
from workers_ai_emulator.middleware.recordings.recording import Ending, Recording
from workers_ai_emulator.middleware.recordings.request import RecordedRequest
from workers_ai_emulator.middleware.recordings.state import RecordingState
from workers_ai_emulator.wire.context import context_of
from workers_ai_emulator.wire.redaction import Redaction

log = logging.getLogger(__name__)


class Recorder:
    """Records calls and their responses. `source_name` names the backend or service that responds.

    The first recording of a call after the server's start or reset replaces all older recordings of
    that call. `keeps_times`: whether recordings contain the times of events.
    """

    def __init__(self, source_name: str, *, keeps_times: bool) -> None:
        self._source_name = source_name
        self._keeps_times = keeps_times
        self._writing = asyncio.Lock()

    async def record(
        self,
        request: RecordedRequest,
        redaction: Redaction,
        state: RecordingState,
        source: ASGIApp,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        """Passes a call to the application `source`, sends the response, and records it.

        Writes the recording before it sends the last message of the response. Exceptions of
        `source` are raised unchanged.
        """
        state.num_begun[request.key] += 1
        number = state.num_begun[request.key]

        async def store(capture: ResponseCapture, ending: Ending) -> None:
            if reason := await self._store(request, redaction, state, number, capture, ending):
                log.warning("not recorded: %s: %s", request.title, reason)

        await _Session(scope, receive, send, store).run(source)

    async def _store(
        self,
        request: RecordedRequest,
        redaction: Redaction,
        state: RecordingState,
        number: int,
        capture: ResponseCapture,
        ending: Ending,
    ) -> str | None:
        """Writes the recording and returns None. If it cannot be written, returns the reason."""
        if reason := capture.reason_not_to_record(ending):
            return reason
        response = await asyncio.to_thread(capture.response, ending, redaction)
        if response is None:
            return "its response has a credential that cannot be redacted"
        answer = response if self._keeps_times else response.without_times()
        recording = Recording(self._source_name, request.content, answer)
        async with self._writing:
            try:
                path = await asyncio.to_thread(_write, recording, state, number)
            except OSError as error:
                return str(error)
        state.num_uses[path.name] += 1
        log.info("recorded %s", path)
        return None


def _write(recording: Recording, state: RecordingState, number: int) -> Path:
    return state.series_of(recording.recorded_request).add(recording, number)


class _Session:
    """Passes one response on to the client, and calls `store` once, when the response ends."""

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        store: Callable[[ResponseCapture, Ending], Coroutine[Any, Any, None]],
    ) -> None:
        self._scope = scope
        self._client_receive = receive
        self._client_send = send
        self._store = store
        self._capture = ResponseCapture()
        self._is_disconnected = False
        self._storing: asyncio.Task[None] | None = None

    async def run(self, source: ASGIApp) -> None:
        try:
            await source(self._scope, self._receive, self._send)
        finally:
            if self._capture.has_begun:
                await self._end()

    async def _receive(self) -> Message:
        message = await self._client_receive()
        self._is_disconnected |= message["type"] == "http.disconnect"
        return message

    async def _send(self, message: Message) -> None:
        self._capture.feed(message)
        if self._capture.is_over:
            await self._end()
        await self._client_send(message)

    async def _end(self) -> None:
        if self._storing is None:
            self._storing = asyncio.create_task(self._store(self._capture, self._ending()))
        # The shield lets `store` complete even if a disconnect cancels this task.
        await asyncio.shield(self._storing)

    def _ending(self) -> Ending:
        started = context_of(self._scope).started
        reason = started.generation.finish_reason if started else None
        is_cancelled = reason is FinishReason.CANCELLED
        return self._capture.ending(
            is_disconnected=self._is_disconnected, is_cancelled=is_cancelled
        )
