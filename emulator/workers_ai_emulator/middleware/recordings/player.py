"""Answers calls from recordings."""

from __future__ import annotations

import asyncio
from collections import Counter

from starlette.types import Send

from workers_ai_emulator.errors import RecordingMissing, RecordingUnusable
from workers_ai_emulator.middleware.recordings.difference import difference, nearest
from workers_ai_emulator.middleware.recordings.folder import Folder
from workers_ai_emulator.middleware.recordings.recording import RecordedAnswer
from workers_ai_emulator.middleware.recordings.request import RecordedRequest


class Player:
    """Several answers to one call come in their order, and the last one from then on.

    `speed` is that of the recorded one; 0: all at once.
    """

    def __init__(self, folder: Folder, speed: float) -> None:
        self._folder = folder
        self._speed = speed
        self._num_played: Counter[str] = Counter()  # by key of the call

    def reset(self) -> None:
        self._num_played.clear()

    async def play(self, request: RecordedRequest, send: Send) -> None:
        """Send the recorded answer. Raises RecordingMissing or RecordingUnusable."""
        answer = await self._find(request)
        loop = asyncio.get_running_loop()
        start = loop.time()

        async def wait_until(ms: int) -> None:
            moment = start + (ms / 1000 / self._speed if self._speed else 0)
            await asyncio.sleep(max(0, moment - loop.time()))

        await wait_until(answer.after_ms)
        headers = [(k.encode("latin-1"), v.encode("latin-1")) for k, v in answer.headers.items()]
        if answer.events is None:
            headers.append((b"content-length", str(len(answer.body)).encode()))
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        for ms, event in answer.event_bytes:
            await wait_until(ms)
            await send({"type": "http.response.body", "body": event, "more_body": True})
        if answer.ending == "whole":  # else it breaks off, as it did
            await send({"type": "http.response.body", "body": answer.body})

    async def _find(self, request: RecordedRequest) -> RecordedAnswer:
        paths = await asyncio.to_thread(self._folder.find, request)
        if not paths:
            raise RecordingMissing(await asyncio.to_thread(self._explain, request))
        path = paths[min(self._num_played[request.key], len(paths) - 1)]
        self._num_played[request.key] += 1
        recording = await asyncio.to_thread(self._folder.read, path)
        if recording.recorded_request.canonical != request.canonical:
            raise RecordingUnusable(f"{path} was renamed, or its request was edited")
        return recording.answer

    def _explain(self, request: RecordedRequest) -> str:
        """What is missing, and how the nearest recording differs from it."""
        missing = f"No recording of {request.title} in {self._folder.path}"
        found = nearest(request, self._folder.comparable(request))
        if found is None:
            return f"{missing}, which has none at all"
        path, other = found
        if not (lines := difference(other, request)):
            return f"{missing}: {path.name} has it, but {request.key} is not in that name"
        return "\n".join([f"{missing}. {path.name} has - where the call has +:", *lines])
