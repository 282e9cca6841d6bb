"""Reads the user's small text files, and writes files atomically."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader, StringIO
from pathlib import Path

MAX_TEXT_BYTES = 2**20
# The characters that `one_line` escapes: control characters, line separators, characters that
# change the writing direction, byte order marks and lone surrogates.
_CONTROL = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)


class IrregularFile(OSError):
    """A path names a directory, device or pipe, not a file. `strerror` is the text for the user."""

    strerror: str

    def __init__(self, reason: str) -> None:
        super().__init__(errno.EINVAL, reason)


class TextUnreadable(ValueError):
    """A text file is too long, not UTF-8 or unreadable. The message is one line: `PATH: reason`."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{one_line(str(path))}: {reason}")
        self.reason = reason


def read_small_text(path: Path, *, max_bytes: int = MAX_TEXT_BYTES) -> str:
    r"""Returns the text of a UTF-8 file. Removes a byte order mark, and ends all lines with `\n`.

    Raises TextUnreadable if the file cannot be read, is a directory, device or pipe, has more than
    `max_bytes` bytes, or is not UTF-8. Reads no more than `max_bytes` + 1 bytes, and does not block
    if the path names a pipe.
    """
    try:
        with open_regular(path) as file:
            data = file.read(max_bytes + 1) or b""
        if len(data) > max_bytes:
            raise ValueError(f"is longer than {max_bytes:,} bytes")
        return StringIO(data.decode("utf-8-sig"), newline=None).read()
    except UnicodeDecodeError as error:
        raise TextUnreadable(path, f"is not UTF-8 text: {error.reason}") from error
    except IrregularFile as error:
        raise TextUnreadable(path, error.strerror) from error
    except OSError as error:
        raise TextUnreadable(path, f"cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # the file is too long, or the path contains a NUL character
        raise TextUnreadable(path, str(error)) from error


def open_regular(path: Path) -> BufferedReader:
    """Opens a regular file for reading. Does not block if the path names a pipe.

    Raises IrregularFile for a directory, device or pipe, and OSError if the file cannot be opened.
    """
    return open(path, "rb", opener=_open_regular)


def one_line(text: str) -> str:
    r"""Returns the text as one line for a terminal: escapes control characters, as in `\x1b`.

    If the locale is not UTF-8, Python may replace bytes of file names by surrogates. This function
    decodes these bytes as UTF-8.
    """
    with suppress(UnicodeError):
        text = text.encode("utf-8", "surrogateescape").decode("utf-8")
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), text)


@contextmanager
def new_part(path: Path) -> Iterator[Path]:
    """Context manager that creates an empty file at `path`, and yields `path`.

    First deletes an existing file or symbolic link at `path`. At the end, deletes the file if the
    `with` block has not renamed it. The caller must make sure that no other process uses `path`.
    Raises OSError if the file cannot be created or deleted.
    """
    path.unlink(missing_ok=True)
    path.open("xb").close()  # fails if another program has just created a link at `path`
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def write_text_atomically(path: Path, text: str, *, mode: int | None = None) -> None:
    """Writes `text` to the file `path` as UTF-8, atomically, and leaves its line ends unchanged.

    Other processes read either the complete old file or the complete new file. `mode`: the
    permissions of the new file; None: those of any new file of the user. Raises OSError if the file
    cannot be written.
    """
    name = f"{path.name}.{os.getpid()}.{os.urandom(4).hex()}.part"
    with new_part(path.with_name(name)) as partial:
        if mode is not None:
            partial.chmod(mode)
        partial.write_text(text, "utf-8", newline="")
        partial.replace(path)


def _open_regular(path: str, flags: int) -> int:
    """Opens a regular file, and returns its file descriptor.

    Raises IrregularFile for a directory, device or pipe, and OSError if the file cannot be opened.
    """
    _check_regular(os.stat(path))  # first, because `open` may have effects on a device
    descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
    try:
        _check_regular(os.fstat(descriptor))  # checked again: the path may now name another file
    except IrregularFile:
        os.close(descriptor)
        raise
    return descriptor


def _check_regular(found: os.stat_result) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise IrregularFile("is a directory, not a file")
    if not stat.S_ISREG(found.st_mode):
        raise IrregularFile("is a device or a pipe, not a file")
