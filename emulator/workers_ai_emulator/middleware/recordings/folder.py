"""The folder of recordings. A call's first is `MODEL-KEY.json`, its second `MODEL-KEY.2.json`."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path

from workers_ai_emulator.errors import SettingInvalid
from workers_ai_emulator.files import TextUnreadable, read_small_text, write_text_atomically
from workers_ai_emulator.middleware.recordings.recording import Recording
from workers_ai_emulator.middleware.recordings.request import RecordedRequest
from workers_ai_emulator.wire.errors import RECORDING_UNUSABLE, WireError

log = logging.getLogger(__name__)

_MAX_FILE_BYTES = 256 * 2**20  # a response has at most 64 MiB; JSON can be several times as long
_MAX_COMPARED_BYTES = 64 * 2**20
_NUMBER = re.compile(r"\.(\d+)\.json")


class Folder:
    """Reads and writes recordings. It keeps none in memory."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def prepare_to_record(self) -> None:
        """Creates the folder if necessary. Raises SettingInvalid if it is not writable."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe = self.path / ".writable"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise SettingInvalid(f"--cassettes: cannot write to {self.path}: {error}") from error

    def prepare_to_replay(self) -> None:
        """Raises SettingInvalid if the folder cannot be read."""
        try:
            num_files = sum(path.suffix == ".json" for path in self.path.iterdir())
        except OSError as error:
            raise SettingInvalid(
                f"--cassettes: cannot read {self.path}: {error.strerror}; "
                "to make recordings, start with --backend record"
            ) from error
        log.info("replaying %d recordings from %s", num_files, self.path)

    def find(self, request: RecordedRequest) -> list[Path]:
        """Returns the recordings of this call, in the order in which they were made."""
        return sorted(self.path.glob(f"*-{request.key}*.json"), key=_number)

    def read(self, path: Path) -> Recording:
        """Returns the recording in a file. Raises WireError if it is damaged or unreadable."""
        try:
            return Recording.parse(read_small_text(path, max_bytes=_MAX_FILE_BYTES))
        except TextUnreadable as error:
            raise WireError(RECORDING_UNUSABLE, f"cannot read {error}") from error
        except ValueError as error:
            raise WireError(RECORDING_UNUSABLE, f"{path} is no recording: {error}") from error

    def write(self, recording: Recording, number: int) -> Path:
        """Writes the `number`th recording of a call atomically. Raises OSError."""
        self.path.mkdir(parents=True, exist_ok=True)
        path = self._path(recording.recorded_request, number)
        write_text_atomically(path, recording.to_text())
        return path

    def delete(self, request: RecordedRequest) -> None:
        """Deletes the recordings of this call. Raises OSError."""
        for path in self.find(request):
            path.unlink(missing_ok=True)

    def comparable(self, request: RecordedRequest) -> Iterator[tuple[Path, RecordedRequest]]:
        """Returns recorded calls, those of the same model first, up to 64 MiB of files."""
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

    def _path(self, request: RecordedRequest, number: int) -> Path:
        suffix = f".{number}.json" if number > 1 else ".json"
        return self.path / f"{request.slug}-{request.key}{suffix}"


def _number(path: Path) -> int:
    match = _NUMBER.search(path.name)
    return int(match[1]) if match else 1
