"""Replays recordings: sends recorded responses to calls."""

from __future__ import annotations

import asyncio
from collections import Counter

from starlette.types import Send

from workers_ai_emulator.middleware.recordings.difference import difference, nearest
from workers_ai_emulator.middleware.recordings.folder import Folder
from workers_ai_emulator.middleware.recordings.recording import RecordedResponse
from workers_ai_emulator.middleware.recordings.request import RecordedRequest
from workers_ai_emulator.wire.errors import RECORDING_MISSING, RECORDING_UNUSABLE, WireError


class Player:
    """Sends recorded responses to calls.

    If the same call was recorded several times, the first call gets the first response, the second
    call gets the second response, and so on. Further calls get the last response. `speed`: 2
    replays events twice as fast as recorded, 0 replays them without delays.
    """

    def __init__(self, folder: Folder, speed: float) -> None:
        self._folder = folder
        self._speed = speed
        self._num_played: Counter[str] = Counter()  # number of replays, by the key of the call

    def reset(self) -> None:
        self._num_played.clear()

    async def play(self, request: RecordedRequest, send: Send) -> None:
        """Sends the recorded response to a call.

        Raises WireError if the call has no recording, or if the recording cannot be used.
        """
        response = await self._find(request)
        loop = asyncio.get_running_loop()
        start = loop.time()

        async def wait_until(ms: int) -> None:
            moment = start + (ms / 1000 / self._speed if self._speed else 0)
            await asyncio.sleep(max(0, moment - loop.time()))

        await wait_until(response.after_ms)
        headers = [(k.encode("latin-1"), v.encode("latin-1")) for k, v in response.headers.items()]
        if response.events is None:
            headers.append((b"content-length", str(len(response.body)).encode()))
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        for ms, event in response.event_bytes:
            await wait_until(ms)
            await send({"type": "http.response.body", "body": event, "more_body": True})
        if response.ending == "whole":  # any other response breaks off, as recorded
            await send({"type": "http.response.body", "body": response.body})

    async def _find(self, request: RecordedRequest) -> RecordedResponse:
        paths = await asyncio.to_thread(self._folder.find, request)
        if not paths:
            raise WireError(RECORDING_MISSING, await asyncio.to_thread(self._explain, request))
        path = paths[min(self._num_played[request.key], len(paths) - 1)]
        self._num_played[request.key] += 1
        recording = await asyncio.to_thread(self._folder.read, path)
        if recording.recorded_request.canonical != request.canonical:
            raise WireError(RECORDING_UNUSABLE, f"{path} was renamed, or its request was edited")
        return recording.answer

    def _explain(self, request: RecordedRequest) -> str:
        """Returns the error text for a call without a recording.

        The text shows the differences between the call and the most similar recorded call.
        """
        missing = f"No recording of {request.title} in {self._folder.path}"
        found = nearest(request, self._folder.comparable(request))
        if found is None:
            return f"{missing}, which has none at all"
        path, other = found
        if not (lines := difference(other, request)):
            return f"{missing}: {path.name} has it, but {request.key} is not in that name"
        return "\n".join([f"{missing}. {path.name} has - where the call has +:", *lines])
