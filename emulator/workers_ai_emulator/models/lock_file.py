"""Locks a file with a lock file, so that only one process at a time writes the file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def locked(
    target: Path,
    failure: Callable[[OSError | NotImplementedError], Exception],
    note: Callable[[str], None] = lambda _: None,
) -> Iterator[None]:
    """Context manager that holds the lock of `target`. Creates the folder of `target` if missing.

    The lock file is `.NAME.lock` in this folder. The system releases the lock when the process
    exits. If another process holds the lock, calls `note` with a message for the user, and waits.
    If the folder is not writable, or its file system does not support locks, raises the exception
    that `failure` returns for the error.
    """
    from filelock import FileLock, Timeout  # imported late, because most starts do not need it

    lock = FileLock(target.with_name(f".{target.name}.lock"))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            note(f"another process is writing {target.name}: waiting for it")
            lock.acquire()
    except (OSError, NotImplementedError) as error:  # NotImplementedError: no support for locks
        raise failure(error) from error
    try:
        yield
    finally:
        lock.release()
