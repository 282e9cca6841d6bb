"""Prints the results of commands to stdout, and their messages and errors to stderr."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from io import TextIOWrapper
from typing import NoReturn

from workers_ai_emulator.files import one_line


def accept_all_characters() -> None:
    """Makes stdout and stderr escape characters that their encoding cannot represent.

    By default, printing a character that the encoding cannot represent raises UnicodeEncodeError.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def shown(text: str) -> str:
    """Returns `text` with its control characters escaped, except newlines and tabs."""
    return "".join(p if p in ("\n", "\t") else one_line(p) for p in re.split(r"([\n\t])", text))


def print_line(line: str) -> None:
    """Prints a line to stdout, with its control characters escaped, and flushes stdout."""
    print(shown(line), flush=True)


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Prints a table to stdout. Each column is as wide as its longest cell."""
    table = [[one_line(cell) for cell in row] for row in (headings, *rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print_line("  ".join(cells).rstrip())


def print_to_stderr(line: str) -> None:
    print(shown(line), file=sys.stderr, flush=True)


def fail(message: str, status: int) -> NoReturn:
    """Prints an error message to stderr, and exits with the exit code `status`."""
    for line in message.splitlines() or [message]:
        print_to_stderr(f"workers-ai-emulator: {line}")
    raise SystemExit(status)
