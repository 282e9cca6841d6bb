"""Writes the recordings of equal calls: one file for each run of equal responses."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from workers_ai_emulator.middleware.recordings.fingerprint import fingerprint
from workers_ai_emulator.middleware.recordings.folder import Folder
from workers_ai_emulator.middleware.recordings.recording import Recording
from workers_ai_emulator.middleware.recordings.request import RecordedRequest
from workers_ai_emulator.wire.errors import WireError

_MAX_KEPT_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class _Run:
    """Consecutive calls with equal responses, which have one file.

    `first`: the number of the first call, from 1 on. `digest`: the fingerprint of the responses.
    """

    first: int
    num_calls: int
    digest: str

    @property
    def end(self) -> int:
        """The number of the call after the last call of the run."""
        return self.first + self.num_calls


class Series:
    """Writes the recordings of equal calls to `folder`, and then deletes the older recordings.

    The older recordings are deleted after the first new one has been written, so that they are kept
    if it cannot be written.

    If the response in an older recording equals the new response, the file keeps the content of the
    older recording. So recording a call again changes a file only if the response has changed.
    The older recordings stay in memory until `forget_older`. The request does not stay in memory.
    """

    def __init__(self, folder: Folder, request: RecordedRequest) -> None:
        self._folder = folder
        self._runs: list[_Run] = []
        self._older_paths = folder.find(request)
        older = _older_recordings(folder, request, self._older_paths)
        self._older = dict(reversed(older))  # if several are equal, the first one

    def forget_older(self) -> None:
        """Frees the memory of the older recordings, with which responses are then not compared."""
        self._older.clear()

    def add(self, recording: Recording, number: int) -> Path:
        """Writes the recording of the call with this number, and returns the path of its file.

        The numbers of calls begin with 1. Calls may end in another order than they began. Raises
        OSError if the file cannot be written, or if a file of an older recording cannot be deleted.
        """
        digest = fingerprint(recording.answer)
        request = recording.recorded_request
        before = self._run(digest, lambda run: run.end == number)
        after = self._run(digest, lambda run: run.first == number + 1)
        stored = self._stored(request, before) if before else self._like_older(recording, digest)
        joined = [run for run in (before, after) if run]
        run = _Run(
            first=before.first if before else number,
            num_calls=1 + sum(other.num_calls for other in joined),
            digest=digest,
        )
        path = self._folder.write(replace(stored or recording, times=run.num_calls), run.first)
        self._runs = [other for other in self._runs if other not in joined] + [run]
        if after:
            self._folder.path_of(request, after.first).unlink(missing_ok=True)
        self._delete_older(request)
        return path

    def _delete_older(self, request: RecordedRequest) -> None:
        """Deletes the files of older recordings, except those that now have a new recording."""
        written = [self._folder.path_of(request, run.first) for run in self._runs]
        for path in self._older_paths:
            if path not in written:
                path.unlink(missing_ok=True)
        self._older_paths = []

    def _run(self, digest: str, is_neighbour: Callable[[_Run], bool]) -> _Run | None:
        runs = (run for run in self._runs if run.digest == digest and is_neighbour(run))
        return next(runs, None)

    def _stored(self, request: RecordedRequest, run: _Run) -> Recording | None:
        """Returns the recording in the file of a run, or None if the file was removed."""
        with suppress(WireError):
            return self._folder.read(self._folder.path_of(request, run.first))
        return None

    def _like_older(self, recording: Recording, digest: str) -> Recording | None:
        older = self._older.get(digest)
        has_same_form = (
            older is not None
            and older.source == recording.source
            and older.answer.has_times == recording.answer.has_times
        )
        return older if has_same_form else None


def _older_recordings(
    folder: Folder, request: RecordedRequest, paths: list[Path]
) -> list[tuple[str, Recording]]:
    """Returns the recordings of a call in these files, with the fingerprints of their responses.

    Leaves out recordings that cannot be read, and those that would exceed 1 MiB together, because
    they stay in memory.
    """
    older = []
    size = 0
    for path in paths:
        with suppress(OSError, WireError):
            size_with_this = size + path.stat().st_size
            if size_with_this <= _MAX_KEPT_BYTES:
                recording = folder.read(path)
                if recording.recorded_request.canonical == request.canonical:
                    size = size_with_this
                    older.append((fingerprint(recording.answer), recording))
    return older
