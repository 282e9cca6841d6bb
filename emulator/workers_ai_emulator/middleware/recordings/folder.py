"""A folder of recordings. Each recording is a JSON file.

The first recording of a call is MODEL-KEY.json. KEY is a hash of the call. If the third of several
equal calls gets another response, the recording of this response is MODEL-KEY.3.json.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from itertools import count
from pathlib import Path

from workers_ai_emulator.errors import SettingInvalid
from workers_ai_emulator.files import TextUnreadable, read_small_text, write_text_atomically
from workers_ai_emulator.middleware.recordings.recording import Recording
from workers_ai_emulator.middleware.recordings.recording_file import parse_recording, recording_text
from workers_ai_emulator.middleware.recordings.request import RecordedRequest
from workers_ai_emulator.wire.errors import RECORDING_UNUSABLE, WireError

log = logging.getLogger(__name__)

# The maximum size of a recording's file. The body of a recorded response is at most 64 MiB large;
# in JSON, it can be several times as large.
_MAX_FILE_BYTES = 256 * 2**20
_MAX_COMPARED_BYTES = 64 * 2**20
_NUMBER = re.compile(r"\.(\d+)\.json")
_MAX_MISTAKES = 20  # lines of an error message about damaged files


class Folder:
    """Reads and writes the files of recordings in a folder. Keeps no recordings in memory.

    `was_empty`: whether the folder had no recordings when this object was created.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.was_empty = not self.names()

    def names(self) -> list[str]:
        """Returns the names of the files of recordings, sorted. Empty if there is no folder."""
        return sorted(path.name for path in self.path.glob("*.json"))

    def prepare_to_record(self) -> None:
        """Creates the folder if it does not exist. Raises SettingInvalid if it is not writable."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe = self.path / ".writable"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise SettingInvalid(f"--cassettes: cannot write to {self.path}: {error}") from error

    def prepare_to_replay(self) -> None:
        """Logs the number of recordings. Raises SettingInvalid if the folder cannot be read."""
        try:
            next(self.path.iterdir(), None)
        except OSError as error:
            raise SettingInvalid(
                f"--cassettes: cannot read {self.path}: {error.strerror}; "
                "to make recordings, start with --backend record"
            ) from error
        self.check()
        log.info("replaying the recordings in %s (files: %d)", self.path, len(self.names()))

    def check(self) -> None:
        """Reads all recordings. Raises SettingInvalid with one line for each damaged file.

        Logs a warning for each file whose name does not contain the hash of the request in it.
        """
        mistakes = []
        for name in self.names():
            path = self.path / name
            try:
                request = self.read(path).recorded_request
            except WireError as error:
                mistakes.append(f"--cassettes: {error}")
                continue
            if request.key not in name:
                log.warning("%s", self.misnamed(path, request))
        more = len(mistakes) - _MAX_MISTAKES
        if mistakes:
            shown = mistakes[:_MAX_MISTAKES] + ([f"and {more} more"] if more > 0 else [])
            raise SettingInvalid("\n".join(shown))

    def misnamed(self, path: Path, request: RecordedRequest) -> str:
        """Returns the error text for a file whose name does not contain the hash of its request."""
        return (
            f"{path} is not replayed, because the key in its name is not that of the request in "
            "it: the request was edited, or the file was renamed. To replay it for the request in "
            f"it, rename the file to {self._free_name(request, path)}"
        )

    def find(self, request: RecordedRequest) -> list[Path]:
        """Returns the paths of a call's recordings, sorted by the numbers in their names."""
        return sorted(self.path.glob(f"*-{request.key}*.json"), key=_number)

    def read(self, path: Path) -> Recording:
        """Returns the recording in a file. Raises WireError if the file is damaged or missing."""
        try:
            return parse_recording(read_small_text(path, max_bytes=_MAX_FILE_BYTES))
        except TextUnreadable as error:
            raise WireError(RECORDING_UNUSABLE, f"cannot read {error}") from error
        except ValueError as error:
            raise WireError(RECORDING_UNUSABLE, f"{path} is no recording: {error}") from error

    def write(self, recording: Recording, number: int) -> Path:
        """Writes a recording to its file, atomically, and returns the path.

        `number`: 1 if the recorded call was the first of several equal calls, 2 if it was the
        second, and so on. Raises OSError if the file cannot be written.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        path = self.path_of(recording.recorded_request, number)
        write_text_atomically(path, recording_text(recording))
        return path

    def comparable(self, request: RecordedRequest) -> Iterator[tuple[Path, RecordedRequest]]:
        """Yields recorded calls and the paths of their files, for a comparison with `request`.

        Calls of the same model come first. Reads at most 64 MiB of files. Logs and skips files that
        cannot be read.
        """
        size = 0
        files = self.path.glob("*.json")
        for path in sorted(files, key=lambda path: (not path.name.startswith(request.slug), path)):
            try:
                size += path.stat().st_size
                if size > _MAX_COMPARED_BYTES:
                    return
                yield path, self.read(path).recorded_request
            except (OSError, WireError) as error:
                log.warning("%s", error)

    def path_of(self, request: RecordedRequest, number: int) -> Path:
        """Returns the path of the file for the call's recording with this number."""
        suffix = f".{number}.json" if number > 1 else ".json"
        return self.path / f"{request.slug}-{request.key}{suffix}"

    def _free_name(self, request: RecordedRequest, path: Path) -> str:
        """Returns a name with the hash of `request` for the file `path`, which no file has yet."""
        paths = (self.path_of(request, number) for number in count(_number(path)))
        return next(free.name for free in paths if not free.exists())


def _number(path: Path) -> int:
    match = _NUMBER.search(path.name)
    return int(match[1]) if match else 1
