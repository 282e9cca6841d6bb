"""Downloads a file: resumes an interrupted download, and checks the sha256 of the whole file.

A download of the file FILE uses these files:

.FILE.lock               the lock file; the system releases the lock when the process exits
FILE.<sha256>.part       the bytes received so far; kept when the download is interrupted, deleted
                         when another revision of the file is downloaded
FILE                     the complete file; an incomplete file never has this name
"""

from __future__ import annotations

import errno
import glob
import hashlib
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from io import FileIO
from pathlib import Path
from typing import Protocol, TypeVar

from workers_ai_emulator.errors import PullFailed, TransferInterrupted
from workers_ai_emulator.files import new_part, open_regular
from workers_ai_emulator.machine import in_units
from workers_ai_emulator.models import lock_file

_BLOCK_BYTES = 2**20
_MARGIN_BYTES = 16 * 2**20  # disk space that a download must leave free
_MAX_DELAY_S = 30.0
_BINARY = getattr(os, "O_BINARY", 0)  # exists only on Windows; prevents the conversion of newlines
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)

# A function that requests the bytes of a file from the given byte position on. It returns a context
# manager, which yields the position of the first byte that the server sends, and the blocks of
# bytes. The yielded position is 0 if the server ignores the requested position.
OpenRemote = Callable[[int], AbstractContextManager[tuple[int, Iterator[bytes]]]]

_T = TypeVar("_T")


class Progress(Protocol):
    """Shows the progress of long file operations, such as downloads, to the user."""

    def begin(self, what: str, done: int, size: int) -> None:
        """Starts to show the operation `what`, which has processed `done` of `size` bytes."""

    def advance(self, num_bytes: int) -> None:
        """Adds `num_bytes` to the completed bytes of the current operation."""

    def end(self) -> None:
        """Stops showing the current operation, whether it is complete or not."""

    def note(self, line: str) -> None:
        """Shows a message to the user on its own line."""


@dataclass(frozen=True, slots=True)
class Retries:
    """Configures the retries of an interrupted download.

    If `number` retries in a row receive no bytes, the download fails. The first retry starts after
    `first_delay_s` seconds. Each further delay is twice as long as the one before, up to 30
    seconds.
    """

    number: int = 6
    first_delay_s: float = 1.0


class Retrier:
    """Retries an interrupted request or download, after a delay that grows with each retry."""

    def __init__(self, retries: Retries, progress: Progress) -> None:
        self._retries = retries
        self._progress = progress
        self._num_failures = 0

    def run(self, attempt: Callable[[], _T]) -> _T:
        """Calls `attempt`, repeats the call after each TransferInterrupted, and returns the result.

        Raises PullFailed after too many interruptions in a row.
        """
        while True:
            try:
                return attempt()
            except TransferInterrupted as error:
                self._wait(error)

    def reset(self) -> None:
        """Sets the number of interruptions in a row to 0. Must be called when bytes arrive."""
        self._num_failures = 0

    def _wait(self, error: TransferInterrupted) -> None:
        self._num_failures += 1
        if self._num_failures > self._retries.number:
            raise PullFailed(
                f"{error}, {self._num_failures} times in a row: check the network and try again; "
                "the received bytes are kept"
            ) from error
        delay_s = min(self._retries.first_delay_s * 2 ** (self._num_failures - 1), _MAX_DELAY_S)
        self._progress.note(f"{error}; trying again in {delay_s:.0f} s")
        time.sleep(delay_s)


class Download:
    """The download of one file to the path `target`.

    Before the download runs, the caller must lock `target` with the function `locked`.
    """

    def __init__(
        self,
        target: Path,
        *,
        size: int,
        sha256: str,
        open_remote: OpenRemote,
        progress: Progress,
        retries: Retries,
    ) -> None:
        self._target = target
        self._part = target.with_name(f"{target.name}.{sha256}.part")
        self._size = size
        self._sha256 = sha256
        self._open_remote = open_remote
        self._progress = progress
        self._retrier = Retrier(retries, progress)
        self._digest = hashlib.sha256()
        self._done = 0

    def run(self) -> None:
        """Downloads the file and checks its sha256. If the sha256 is wrong, tries once more.

        Raises PullFailed if the download fails, or if the sha256 is wrong again. After a failed
        download, the received bytes stay on disk, and the next `pull` continues with them. A
        complete file with a wrong sha256 is deleted.
        """
        try:
            for _ in range(2):
                self._resume()
                self._check_space()
                self._retrier.run(self._append_rest)
                if self._digest.hexdigest() == self._sha256:
                    rename_durably(self._part, self._target)
                    return
                self._part.unlink()
                self._progress.note("the sha256 differs from the hub's; downloading it again")
        except OSError as error:
            raise self._disk_failure(error) from error
        finally:
            self._progress.end()
        raise PullFailed(
            f"{self._target.name} was received twice with another sha256 than the hub's: the "
            "network or a proxy changes it; try another network or HF_ENDPOINT"
        )

    def _resume(self) -> None:
        """Prepares the `.part` file, which contains the received bytes of an interrupted download.

        Deletes `.part` files that cannot be continued. Creates an empty `.part` file if none is
        left, and computes the sha256 of the bytes in the `.part` file.
        """
        self._digest, self._done = hashlib.sha256(), 0
        self._remove_unusable_parts()
        self._open_part().close()
        if length := self._part.stat().st_size:
            self._progress.begin(f"checking {self._target.name}", 0, length)
            for block in _blocks_of(self._part):
                self._count(block)
        self._progress.begin(self._target.name, self._done, self._size)

    def _remove_unusable_parts(self) -> None:
        """Deletes the `.part` files (incomplete downloads) of other revisions of the file.

        Also deletes the `.part` file of this download if it is a link or larger than the whole
        file.
        """
        for part in self._target.parent.glob(f"{glob.escape(self._target.name)}.*.part"):
            if part != self._part or not _is_own_file(part, self._size):
                part.unlink()

    def _open_part(self) -> FileIO:
        """Opens the `.part` file for appending. Creates it if missing. Follows no symbolic link."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0)
        return FileIO(
            self._part, "ab", opener=lambda path, _: os.open(path, flags | _BINARY, 0o666)
        )

    def _check_space(self) -> None:
        left = self._size - self._done
        free = shutil.disk_usage(self._part.parent).free
        if left + _MARGIN_BYTES > free:
            raise PullFailed(
                f"{self._target.name} needs {in_units(left)} more and {self._part.parent} has "
                f"{in_units(free)} free: free some space or choose another folder with --models-dir"
            )

    def _append_rest(self) -> None:
        """Downloads the bytes that are missing on disk, and appends them to the `.part` file.

        Raises TransferInterrupted if the response ends too early, and PullFailed if the response
        contains too many bytes.
        """
        if self._done == self._size:
            return
        with (
            self._open_part() as file,
            self._open_remote(self._done) as (start, blocks),
        ):
            for block in _skip(self._done - start, blocks):
                if self._done + len(block) > self._size:
                    raise PullFailed(
                        f"the server sends more bytes of {self._target.name} than the {self._size} "
                        "that it announced"
                    )
                _write(file.fileno(), block)
                self._count(block)
                self._retrier.reset()
        if self._done < self._size:
            raise TransferInterrupted(f"the download of {self._target.name} was interrupted")

    def _count(self, block: bytes) -> None:
        self._digest.update(block)
        self._done += len(block)
        self._progress.advance(len(block))

    def _disk_failure(self, error: OSError) -> PullFailed:
        if error.errno in _DISK_FULL:
            left = in_units(self._size - self._done)
            return PullFailed(
                f"{self._part.parent} is full and {left} of {self._target.name} are missing: free "
                "some space and try again; the received bytes are kept"
            )
        return _unwritable(self._part, error)


def locked(target: Path, note: Callable[[str], None]) -> AbstractContextManager[None]:
    """Returns a context manager that holds the lock of `target`, as `lock_file.py:locked` does.

    `note`: receives a message for the user if another process holds the lock. Raises PullFailed on
    entry if the folder of `target` is not writable or its file system does not support locks.
    """
    return lock_file.locked(target, partial(_unwritable, target), note)


def link_or_copy(source: Path, target: Path) -> None:
    """Creates `target` as a hard link to the file `source`, or as a copy if a link is impossible.

    Raises PullFailed if the copy fails.
    """
    try:
        os.link(source.resolve(), target)
        return
    except OSError:  # `target` is on another disk, or its file system has no hard links
        pass
    try:
        with new_part(target.with_name(f"{target.name}.copy.part")) as part:
            shutil.copyfile(source, part)
            rename_durably(part, target)
    except OSError as error:
        raise PullFailed(
            f"cannot copy {source} to {target}: {error.strerror}; free some space or choose "
            "another folder with --models-dir"
        ) from error


def rename_durably(part: Path, target: Path) -> None:
    """Flushes the file `part` to the disk, then renames it to `target`.

    Without the flush, `target` could be incomplete after a power failure. Raises OSError if the
    file cannot be flushed or renamed.
    """
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.replace(target)


def sha256_of(path: Path, progress: Progress) -> str:
    """Returns the sha256 of a file as hexadecimal digits.

    Shows the progress to the user. Raises PullFailed if the file cannot be read.
    """
    digest = hashlib.sha256()
    try:
        progress.begin(f"checking {path.name}", 0, path.stat().st_size)
        for block in _blocks_of(path):
            digest.update(block)
            progress.advance(len(block))
    except OSError as error:
        raise PullFailed(f"{path} cannot be read: {error.strerror}") from error
    finally:
        progress.end()
    return digest.hexdigest()


def _blocks_of(path: Path) -> Iterator[bytes]:
    """Yields the bytes of a file in blocks of one mebibyte."""
    with open_regular(path) as file:
        while block := file.read(_BLOCK_BYTES):
            yield block


def _is_own_file(part: Path, max_size: int) -> bool:
    """Returns whether `part` is a regular file of at most `max_size` bytes with a single hard link.

    Returns False for a symbolic link, and for a file with several hard links, because writing to
    `part` would then change another file.
    """
    found = part.lstat()
    return stat.S_ISREG(found.st_mode) and found.st_nlink == 1 and found.st_size <= max_size


def _unwritable(path: Path, error: OSError | NotImplementedError) -> PullFailed:
    """Returns the error for a file that cannot be written because of `error`."""
    reason = getattr(error, "strerror", None) or error
    return PullFailed(
        f"cannot write {path}: {reason}; make its folder writable or choose another folder with "
        "--models-dir"
    )


def _skip(num_bytes: int, blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Drops the first `num_bytes` bytes of `blocks`, and yields the remaining bytes.

    The dropped bytes are already on disk. A server that ignores the Range header sends them again.
    """
    for block in blocks:
        if len(block) > num_bytes:
            yield block[num_bytes:]
        num_bytes = max(num_bytes - len(block), 0)


def _write(descriptor: int, data: bytes) -> None:
    """Writes all of `data` to a file descriptor, without a buffer.

    The content of a buffer would be lost if the process were killed.
    """
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
