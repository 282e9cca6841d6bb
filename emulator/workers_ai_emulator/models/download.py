"""Brings a remote file to a path: resumed after whatever stopped it, every byte checked.

.FILE.lock               held by whoever writes; the system lets go of it when a process dies
FILE.<sha256>.part       what has come so far, in order; kept when a download breaks off
FILE                     only ever the whole file, with the right digest
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from filelock import FileLock, Timeout

from workers_ai_emulator.errors import PullFailed, TransferInterrupted
from workers_ai_emulator.machine import in_units

_READ_BYTES = 2**20
_MARGIN_BYTES = 16 * 2**20  # of the disk, left to others
_MAX_DELAY_S = 30.0
_FULL = (errno.ENOSPC, errno.EDQUOT)

# From a byte on: where the bytes that come begin, and the bytes.
Reading = Callable[[int], AbstractContextManager[tuple[int, Iterator[bytes]]]]

_T = TypeVar("_T")


class Progress(Protocol):
    """Is told how far a file has come."""

    def begin(self, what: str, done: int, size: int) -> None:
        """From here on, `what` goes from `done` to `size` bytes."""

    def advance(self, num_bytes: int) -> None:
        """So many more."""

    def end(self) -> None:
        """It goes no further, for whatever reason."""

    def note(self, line: str) -> None:
        """Something that a user should know."""


@dataclass(frozen=True, slots=True)
class Retries:
    """How often in a row something may be interrupted, and how long to wait after the first."""

    number: int = 6
    first_delay_s: float = 1.0


class Patience:
    """Waits after an interruption, longer each time, until there were too many in a row."""

    def __init__(self, retries: Retries, progress: Progress) -> None:
        self._retries = retries
        self._progress = progress
        self._num_failures = 0

    def until_done(self, attempt: Callable[[], _T]) -> _T:
        """The attempt's result. Raises PullFailed when it was interrupted too often."""
        while True:
            try:
                return attempt()
            except TransferInterrupted as error:
                self._wait(error)

    def restore(self) -> None:
        """There was progress: count anew."""
        self._num_failures = 0

    def _wait(self, error: TransferInterrupted) -> None:
        self._num_failures += 1
        if self._num_failures > self._retries.number:
            raise PullFailed(
                f"{error}, {self._num_failures} times in a row: check the network and try again; "
                "what has come is kept"
            ) from error
        delay_s = min(self._retries.first_delay_s * 2 ** (self._num_failures - 1), _MAX_DELAY_S)
        self._progress.note(f"{error}; trying again in {delay_s:.0f} s")
        time.sleep(delay_s)


class Download:
    """One file on its way to `target`; `reading` opens it anew from a byte on.

    The caller holds the lock (`exclusive`).
    """

    def __init__(
        self,
        target: Path,
        *,
        size: int,
        sha256: str,
        reading: Reading,
        progress: Progress,
        retries: Retries,
    ) -> None:
        self._target = target
        self._part = target.with_name(f"{target.name}.{sha256}.part")
        self._size = size
        self._sha256 = sha256
        self._reading = reading
        self._progress = progress
        self._patience = Patience(retries, progress)
        self._digest = hashlib.sha256()
        self._done = 0

    def run(self) -> None:
        """Raises PullFailed; what has come is kept, unless its digest is wrong."""
        try:
            for _ in range(2):
                self._take_up()
                self._check_space()
                self._patience.until_done(self._continue)
                if self._digest.hexdigest() == self._sha256:
                    publish(self._part, self._target)
                    return
                self._part.unlink()
                self._progress.note("its sha256 is not the one that the hub gives; once more")
        except OSError as error:
            raise self._disk_failure(error) from error
        finally:
            self._progress.end()
        raise PullFailed(
            f"{self._target.name} came twice with another sha256 than the hub gives: something "
            "between here and there changes it; try another network or HF_ENDPOINT"
        )

    def _take_up(self) -> None:
        """Read again what is there: the digest needs it, and nobody else has checked it."""
        self._digest, self._done = hashlib.sha256(), 0
        self._part.touch()
        if (length := self._part.stat().st_size) > self._size:
            os.truncate(self._part, 0)
        elif length:
            self._progress.begin(f"checking {self._target.name}", 0, length)
            for chunk in chunks_of(self._part):
                self._take(chunk)
        self._progress.begin(self._target.name, self._done, self._size)

    def _check_space(self) -> None:
        left = self._size - self._done
        free = shutil.disk_usage(self._part.parent).free
        if left + _MARGIN_BYTES > free:
            raise PullFailed(
                f"{self._target.name} needs {in_units(left)} more and {self._part.parent} has "
                f"{in_units(free)} free: free some space or choose another folder with --models-dir"
            )

    def _continue(self) -> None:
        """Append what comes. Raises TransferInterrupted if that is not all."""
        if self._done == self._size:
            return
        with self._part.open("ab", buffering=0) as file, self._reading(self._done) as (start, rest):
            for chunk in _without_first(self._done - start, rest):
                if self._done + len(chunk) > self._size:
                    raise PullFailed(
                        f"more bytes come of {self._target.name} than the {self._size} announced"
                    )
                _write(file.fileno(), chunk)
                self._take(chunk)
                self._patience.restore()
        if self._done < self._size:
            raise TransferInterrupted(f"{self._target.name} broke off")

    def _take(self, chunk: bytes) -> None:
        self._digest.update(chunk)
        self._done += len(chunk)
        self._progress.advance(len(chunk))

    def _disk_failure(self, error: OSError) -> PullFailed:
        if error.errno in _FULL:
            left = in_units(self._size - self._done)
            return PullFailed(
                f"{self._part.parent} is full and {left} of {self._target.name} are missing: free "
                "some space and try again; what has come is kept"
            )
        return PullFailed(f"cannot write {self._part}: {error.strerror}; check --models-dir")


@contextmanager
def exclusive(target: Path, progress: Progress) -> Iterator[None]:
    """Nobody else writes `target` meanwhile. Waits for whoever does. Raises PullFailed."""
    lock = FileLock(target.with_name(f".{target.name}.lock"))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            progress.note(f"another process brings {target.name}: waiting for it")
            lock.acquire()
    except OSError as error:
        raise PullFailed(f"cannot write {target}: {error.strerror}; check --models-dir") from error
    try:
        yield
    finally:
        lock.release()


def place(source: Path, target: Path) -> None:
    """Let `target` be the same file; a copy, where it is on another disk. Raises PullFailed."""
    try:
        os.link(source.resolve(), target)
        return
    except OSError:  # another disk, or one that has no links
        part = target.with_name(f"{target.name}.copy.part")
    try:
        shutil.copyfile(source, part)
        publish(part, target)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise PullFailed(
            f"cannot copy {source} to {target}: {error.strerror}; free some space or choose "
            "another folder with --models-dir"
        ) from error


def publish(part: Path, target: Path) -> None:
    """Give the whole file its name, so that it outlasts a loss of power."""
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.replace(target)


def sha256_of(path: Path, progress: Progress) -> str:
    """The file's digest."""
    digest = hashlib.sha256()
    progress.begin(f"checking {path.name}", 0, path.stat().st_size)
    for chunk in chunks_of(path):
        digest.update(chunk)
        progress.advance(len(chunk))
    progress.end()
    return digest.hexdigest()


def chunks_of(path: Path) -> Iterator[bytes]:
    """The file's bytes, a megabyte at a time."""
    with path.open("rb") as file:
        while chunk := file.read(_READ_BYTES):
            yield chunk


def _without_first(num_bytes: int, chunks: Iterator[bytes]) -> Iterator[bytes]:
    """A server that ignores where to begin sends again what is there already."""
    for chunk in chunks:
        if len(chunk) > num_bytes:
            yield chunk[num_bytes:]
        num_bytes = max(num_bytes - len(chunk), 0)


def _write(descriptor: int, data: bytes) -> None:
    """All of it, with nothing held back that would be lost when the process is killed."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
