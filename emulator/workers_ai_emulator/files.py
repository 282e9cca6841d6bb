"""Reads small text files of users, and writes files atomically."""

from __future__ import annotations

import os
import stat
from io import StringIO
from pathlib import Path

MAX_TEXT_BYTES = 2**20


class TextUnreadable(ValueError):
    """A file is not a small text file. The message is one line: `PATH: reason`."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{one_line(str(path))}: {reason}")
        self.reason = reason


def read_small_text(path: Path, *, max_bytes: int = MAX_TEXT_BYTES) -> str:
    r"""Returns the text of a regular UTF-8 file, without its byte order mark, lines ended by \n.

    Raises TextUnreadable for a missing file, a directory, device or pipe, for more than `max_bytes`
    bytes, and for bytes that are not UTF-8. Reads no more than `max_bytes` + 1 bytes, and does not
    wait for the other end of a pipe.
    """
    try:
        with open(path, "rb", opener=_open_regular) as file:
            data = file.read(max_bytes + 1) or b""
        if len(data) > max_bytes:
            raise ValueError(f"is longer than {max_bytes:,} bytes")
        return StringIO(data.decode("utf-8-sig"), newline=None).read()
    except UnicodeDecodeError as error:
        raise TextUnreadable(path, f"is not UTF-8 text: {error.reason}") from error
    except OSError as error:
        raise TextUnreadable(path, f"cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # ours, or Python's about a NUL character in the path
        raise TextUnreadable(path, str(error)) from error


def one_line(text: str) -> str:
    r"""Returns the text with every control character escaped, as a terminal can show it: `\x1b`."""
    return "".join(c if c.isprintable() else _escaped(c) for c in text)


def write_text_atomically(path: Path, text: str) -> None:
    """Writes `text` as UTF-8, so that other processes see the old file or the new one, complete.

    Raises OSError.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    partial.write_text(text, "utf-8")
    partial.replace(path)


def _open_regular(path: str, flags: int) -> int:
    """Opens a regular file. Raises ValueError for other kinds of files, and OSError."""
    _check_regular(os.stat(path))  # opening a device may have effects
    descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
    try:
        _check_regular(os.fstat(descriptor))  # the path may name another file by now
    except ValueError:
        os.close(descriptor)
        raise
    return descriptor


def _check_regular(found: os.stat_result) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise ValueError("is a directory, not a file")
    if not stat.S_ISREG(found.st_mode):
        raise ValueError("is a device or a pipe, not a file")


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
