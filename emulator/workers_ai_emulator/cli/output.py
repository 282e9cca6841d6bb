"""Prints results to stdout, and progress and errors to stderr."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import NoReturn


def print_line(line: str) -> None:
    """Prints a result and flushes stdout."""
    print(line, flush=True)


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Prints rows of cells under headings, each column as wide as its longest cell."""
    table = [headings, *rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print_line("  ".join(cells).rstrip())


def print_to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def fail(message: str, status: int) -> NoReturn:
    """Prints each line of an error to stderr and exits with `status`."""
    for line in message.splitlines() or [message]:
        print_to_stderr(f"workers-ai-emulator: {line}")
    raise SystemExit(status)
