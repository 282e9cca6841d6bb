"""Records answers while they pass."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from workers_ai_emulator.backends.backend import StartedGeneration
from workers_ai_emulator.engine.types import FinishReason
from workers_ai_emulator.middleware.recordings.capture import ResponseCapture
from workers_ai_emulator.middleware.recordings.folder import Folder
from workers_ai_emulator.middleware.recordings.recording import Ending, Recording
from workers_ai_emulator.middleware.recordings.request import RecordedRequest
from workers_ai_emulator.wire.redaction import Redaction

log = logging.getLogger(__name__)


class Recorder:
    """Has `source`, an application called `source_name`, answer.

    The first recording of a call replaces those of earlier runs; the next ones follow it.
    """

    def __init__(self, folder: Folder, source_name: str, source: ASGIApp) -> None:
        self._folder = folder
        self._source_name = source_name
        self._source = source
        self._writing = asyncio.Lock()
        self.reset()

    def reset(self) -> None:
        self._num_begun: Counter[str] = Counter()  # by key of the call
        self._replaced: set[str] = set()

    async def record(
        self,
        request: RecordedRequest,
        redaction: Redaction,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        """Pass the answer on, message by message; it is stored before the last one goes out.

        Raises what the source raises.
        """
        self._num_begun[request.key] += 1
        number = self._num_begun[request.key]

        async def store(tape: ResponseCapture, ending: Ending) -> None:
            if reason := await self._store(request, redaction, number, tape, ending):
                log.warning("not recorded: %s: %s", request.title, reason)

        await _Session(scope, receive, send, store).run(self._source)

    async def _store(
        self,
        request: RecordedRequest,
        redaction: Redaction,
        number: int,
        tape: ResponseCapture,
        ending: Ending,
    ) -> str | None:
        """Write the file; why not, if so."""
        if objection := tape.objection(ending):
            return objection
        answer = await asyncio.to_thread(tape.answer, ending, redaction)
        if answer is None:
            return "its answer repeats a credential, in pieces"
        now = datetime.now(UTC).isoformat(timespec="seconds")
        recording = Recording(
            recorded_at=now, source=self._source_name, request=request.content, answer=answer
        )
        async with self._writing:
            try:
                await asyncio.to_thread(self._write, recording, number)
            except OSError as error:
                return str(error)
        return None

    def _write(self, recording: Recording, number: int) -> None:
        request = recording.recorded_request
        if request.key not in self._replaced:
            self._folder.forget(request)
            self._replaced.add(request.key)
        path = self._folder.write(recording, number)
        log.info("recorded %s", path)


class _Session:
    """One answer on its way to the client; `store` is called once, with what has come of it."""

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
        self._tape = ResponseCapture()
        self._has_left = False
        self._storing: asyncio.Task[None] | None = None

    async def run(self, source: ASGIApp) -> None:
        try:
            await source(self._scope, self._receive, self._send)
        finally:
            if self._tape.has_begun:
                await self._end()

    async def _receive(self) -> Message:
        message = await self._client_receive()
        self._has_left |= message["type"] == "http.disconnect"
        return message

    async def _send(self, message: Message) -> None:
        self._tape.feed(message)
        if self._tape.is_over:
            await self._end()
        await self._client_send(message)

    async def _end(self) -> None:
        if self._storing is None:
            self._storing = asyncio.create_task(self._store(self._tape, self._ending()))
        # A client that leaves now has the source cancelled, which is us: the file is still written.
        await asyncio.shield(self._storing)

    def _ending(self) -> Ending:
        started: StartedGeneration | None = self._scope["state"].get("started")
        reason = started.generation.finish_reason if started else None
        is_cancelled = reason is FinishReason.CANCELLED
        return self._tape.ending(has_client_left=self._has_left, is_cancelled=is_cancelled)
