"""Prints the results of commands to stdout, and their messages and errors to stderr."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Sequence
from io import TextIOWrapper
from typing import NoReturn

from workers_ai_emulator.errors import CommandError
from workers_ai_emulator.files import one_line


def open_closed_streams() -> None:
    """Opens the null device for each of stdin, stdout and stderr that the caller has closed.

    Without it, `sys.stdin`, `sys.stdout` or `sys.stderr` is None, and a file that is opened later
    gets the descriptor of the closed stream.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115


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
    """Prints a line to stdout, with its control characters escaped, and flushes stdout.

    Raises CommandError if the line cannot be written, for example because the disk is full, and
    BrokenPipeError if the program that read stdout has exited.
    """
    try:
        print(shown(line), flush=True)
    except BrokenPipeError:  # Typer ends the command without a message
        raise
    except OSError as error:
        _discard_output()
        raise CommandError(f"cannot write to stdout: {error.strerror}") from error


def _discard_output() -> None:
    """Redirects stdout to the null device. Otherwise, Python writes the rest again at its exit."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Prints a table to stdout. Each column is as wide as its longest cell."""
    table = [[one_line(cell) for cell in row] for row in (headings, *rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print_line("  ".join(cells).rstrip())


def print_to_stderr(line: str) -> None:
    """Prints a line to stderr, with its control characters escaped.

    If the line cannot be written, for example because the disk is full, discards this line and all
    later ones, so that the exit code stays that of the command.
    """
    try:
        print(shown(line), file=sys.stderr, flush=True)
    except OSError:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


def fail(message: str, status: int) -> NoReturn:
    """Prints an error message to stderr, and exits with the exit code `status`."""
    for line in message.splitlines() or [message]:
        print_to_stderr(f"workers-ai-emulator: {line}")
    raise SystemExit(status)
