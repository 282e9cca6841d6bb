"""Shows the progress of downloads and checks of files: as a bar on a terminal, else as lines."""

from __future__ import annotations

import sys
import time
from typing import Never, TextIO

from tqdm import tqdm

from workers_ai_emulator.cli.output import shown
from workers_ai_emulator.machine import in_units

_LINE_INTERVAL_S = 10.0


class Bar:
    """Shows the progress of file operations as a bar on a terminal."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._bar: tqdm[Never] | None = None

    def begin(self, what: str, done: int, size: int) -> None:
        self.end()
        self._bar = tqdm(
            desc=shown(what), initial=done, total=size, unit="B", unit_scale=True,
            unit_divisor=1024, file=self._stream, dynamic_ncols=True,
        )  # fmt: skip

    def advance(self, num_bytes: int) -> None:
        if self._bar is not None:
            self._bar.update(num_bytes)

    def end(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def note(self, line: str) -> None:
        self.end()
        print(shown(line), file=self._stream, flush=True)


class Lines:
    """Prints the progress of file operations as lines, for output that is not a terminal.

    Prints a line at the start and at the end of an operation, and every ten seconds in between.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._what = ""
        self._done = self._start = self._size = 0
        self._start_s = self._printed_s = 0.0

    def begin(self, what: str, done: int, size: int) -> None:
        self.end()
        self._what, self._start, self._done, self._size = what, done, done, size
        self._start_s = time.monotonic()
        self._print()

    def advance(self, num_bytes: int) -> None:
        self._done += num_bytes
        if time.monotonic() - self._printed_s >= _LINE_INTERVAL_S:
            self._print()

    def end(self) -> None:
        if self._what and self._done > self._start:
            self._print()
        self._what = ""

    def note(self, line: str) -> None:
        print(shown(line), file=self._stream, flush=True)

    def _print(self) -> None:
        self._printed_s = time.monotonic()
        elapsed_s = self._printed_s - self._start_s
        share = 100 * self._done // max(self._size, 1)
        line = f"{self._what}: {share}% of {in_units(self._size)}"
        if elapsed_s > 1 and self._done > self._start:
            rate = (self._done - self._start) / elapsed_s
            left_s = (self._size - self._done) / rate
            line += f", {in_units(int(rate))}/s, {left_s:.0f} s left"
        self.note(line)


class Silence:
    """Shows no progress. Commands use this class if the flag `--quiet` is set."""

    def begin(self, what: str, done: int, size: int) -> None: ...

    def advance(self, num_bytes: int) -> None: ...

    def end(self) -> None: ...

    def note(self, line: str) -> None: ...


def progress_on_stderr(*, is_quiet: bool = False) -> Bar | Lines | Silence:
    """Returns an object that shows progress: a bar if stderr is a terminal, otherwise lines.

    If `is_quiet`, the object shows nothing.
    """
    if is_quiet:
        return Silence()
    return Bar(sys.stderr) if sys.stderr.isatty() else Lines(sys.stderr)
