"""Reads the log of `pip install --verbose` on stdin, and shows the progress on stderr.

Installing the emulator compiles llama.cpp. In a terminal, one line shows how many files have been
compiled and about how many seconds are left. If stderr is not a terminal, a line is printed for
each tenth of the files. Errors in the log are printed unchanged.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator

_COLLECTED = re.compile(r"\s*Collecting ([\w.-]+)")
_COMPILED = re.compile(r"\s*\[(\d+)/(\d+)\] ")
_ERROR = re.compile(r"\s*(ERROR|error): ")


class Progress:
    """Converts lines of pip's log into texts that show the progress of the installation.

    `is_terminal`: whether the texts are for a terminal, on which each replaces the previous one.
    """

    def __init__(self, *, is_terminal: bool) -> None:
        self._is_terminal = is_terminal
        self._start_s: float | None = None
        self._printed_tenth = -1

    def text(self, line: str, now_s: float) -> str | None:
        """Returns the text to print after this line of the log, or None if there is nothing new.

        `now_s`: the current time in seconds, on any clock. Only differences of times matter.
        """
        if match := _COMPILED.match(line):
            return self._compiled(int(match[1]), int(match[2]), now_s)
        if match := _COLLECTED.match(line):
            return f"installing {match[1]}" if self._is_terminal else None
        return None

    def _compiled(self, number: int, total: int, now_s: float) -> str | None:
        if self._start_s is None:
            self._start_s = now_s
        tenth = 10 * number // total
        if not self._is_terminal and tenth <= self._printed_tenth:
            return None
        self._printed_tenth = tenth
        text = f"compiling llama.cpp: {100 * number // total} % ({number} of {total} files)"
        left_s = (now_s - self._start_s) * (total - number) / number
        return f"{text}, about {left_s:.0f} s left" if number > total // 20 else text


def main() -> None:
    is_terminal = sys.stderr.isatty()
    progress = Progress(is_terminal=is_terminal)
    for line in _lines():
        if _ERROR.match(line):
            _print(line.strip(), ends_line=True, is_terminal=is_terminal)
        elif text := progress.text(line, time.monotonic()):
            _print(text, ends_line=not is_terminal, is_terminal=is_terminal)
    if is_terminal:
        _print("", ends_line=False, is_terminal=True)


def _lines() -> Iterator[str]:
    for line in sys.stdin.buffer:
        yield line.decode("utf-8", "replace")


def _print(text: str, *, ends_line: bool, is_terminal: bool) -> None:
    start = "\r\x1b[K" if is_terminal else ""  # deletes the previous text on this line
    print(f"{start}  {text}" if text else start, end="\n" if ends_line else "", file=sys.stderr)
    sys.stderr.flush()


if __name__ == "__main__":
    main()
