"""What goes to the terminal: results to stdout, the rest to stderr."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import NoReturn


def print_line(line: str) -> None:
    """A result, at once."""
    print(line, flush=True)


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Rows under headings, in columns of equal width."""
    table = [headings, *rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print_line("  ".join(cells).rstrip())


def tell(line: str) -> None:
    """Something beside the result."""
    print(line, file=sys.stderr, flush=True)


def fail(message: str, status: int) -> NoReturn:
    """End with the reason, a line for each."""
    for line in message.splitlines() or [message]:
        tell(f"workers-ai-emulator: {line}")
    raise SystemExit(status)
