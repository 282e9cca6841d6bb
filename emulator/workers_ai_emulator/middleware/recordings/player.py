"""Replays recordings: sends recorded responses to calls."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from pathlib import Path

from starlette.types import Send

from workers_ai_emulator.middleware.recordings.difference import difference, nearest
from workers_ai_emulator.middleware.recordings.folder import Folder
from workers_ai_emulator.middleware.recordings.recording import RecordedResponse, Recording
from workers_ai_emulator.middleware.recordings.request import RecordedRequest
from workers_ai_emulator.middleware.recordings.state import RecordingState
from workers_ai_emulator.wire.errors import RECORDING_MISSING, RECORDING_UNUSABLE, WireError

log = logging.getLogger(__name__)

_NEXT_STEP = (
    "To record it and keep all other recordings, send the call to a server with --backend record "
    "--record-mode new_episodes"
)


@dataclass(frozen=True, slots=True)
class FoundRecording:
    """The recorded response for a call, and the name of the recording's file."""

    name: str
    response: RecordedResponse


class Player:
    """Finds and sends the recorded responses to calls.

    If the same call was recorded several times, the first call gets the first response, the second
    call gets the second response, and so on. Further calls get the last response. `speed`: 2
    replays events twice as fast as recorded, 0 replays them without delays.
    """

    def __init__(self, speed: float) -> None:
        self._speed = speed
        self._has_warned = False

    async def find(self, request: RecordedRequest, state: RecordingState) -> FoundRecording:
        """Returns the recording for a call of an account, and counts the call in `state`.

        Raises WireError if the call has no recording, or if the recording cannot be used.
        """
        paths = await asyncio.to_thread(state.folder.find, request)
        if not paths:
            raise WireError(
                RECORDING_MISSING, await asyncio.to_thread(_explain, request, state.folder)
            )
        index = state.num_played[request.key]
        state.num_played[request.key] += 1
        path, recording = await asyncio.to_thread(_nth, index, paths, state.folder)
        recorded = recording.recorded_request
        if recorded.canonical != request.canonical:
            raise WireError(RECORDING_UNUSABLE, state.folder.misnamed(path, recorded))
        state.num_uses[path.name] += 1
        return FoundRecording(path.name, recording.answer)

    async def play(self, found: FoundRecording, send: Send) -> None:
        """Sends a recorded response."""
        response, loop = found.response, asyncio.get_running_loop()
        start = loop.time()
        if self._speed and not response.has_times:
            self._warn(found.name)

        async def wait_until(ms: int) -> None:
            moment = start + (ms / 1000 / self._speed if self._speed else 0)
            await asyncio.sleep(max(0, moment - loop.time()))

        await wait_until(response.after_ms or 0)
        headers = [(k.encode("latin-1"), v.encode("latin-1")) for k, v in response.headers.items()]
        if response.events is None:
            headers.append((b"content-length", str(len(response.body)).encode()))
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        for ms, event in response.event_bytes:
            await wait_until(ms)
            await send({"type": "http.response.body", "body": event, "more_body": True})
        if response.ending == "whole":  # any other response breaks off, as recorded
            await send({"type": "http.response.body", "body": response.body})

    def _warn(self, name: str) -> None:
        if not self._has_warned:
            log.warning(
                "--replay-speed has no effect on %s and similar recordings: they have no times, "
                "because they were recorded without --record-timing",
                name,
            )
            self._has_warned = True


def _nth(index: int, paths: list[Path], folder: Folder) -> tuple[Path, Recording]:
    """Returns the recording for the call with this index, from 0 on, and its path.

    `paths`: the recordings of equal calls, of which each one is for one or more calls. The last
    recording is also for all further calls. Raises WireError if a recording cannot be read.
    """
    for path in paths:
        recording = folder.read(path)
        if index < recording.times:
            break
        index -= recording.times
    return path, recording


def _explain(request: RecordedRequest, folder: Folder) -> str:
    """Returns the error text for a call without a recording.

    The text shows the differences between the call and the most similar recorded call.
    """
    missing = f"No recording of {request.title} in {folder.path}"
    found = nearest(request, folder.comparable(request))
    if found is None:
        return f"{missing}, which contains no recordings\n{_NEXT_STEP}"
    path, other = found
    if not (lines := difference(other, request)):
        return f"{missing}\n{folder.misnamed(path, other)}"
    explanation = (
        f"the most similar recording is {path.name}; lines with - are only in the recording, lines "
        "with + only in this call:"
    )
    return "\n".join([missing, explanation, *lines, _NEXT_STEP])
