"""Ends the text of a completion before the first stop string of its request."""

from __future__ import annotations

from collections.abc import Sequence


class StopMatcher:
    """Searches a text for stop strings, piece by piece.

    Of several stop strings in the text, the one that ends first counts; of those that end at the
    same place, the longest. So the result does not depend on where the text is divided into pieces.
    `stop`: the stop strings; empty strings are ignored. `has_matched`: whether a stop string has
    been found.
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self._stop = [text for text in stop if text]
        self._held = ""  # the end of the text so far, if it may be the beginning of a stop string
        self.has_matched = False

    def feed(self, text: str) -> str:
        """Adds a piece of the text, and returns the text that cannot be part of a stop string.

        Once a stop string has been found, returns the text before it, and later nothing.
        """
        if self.has_matched or not self._stop:
            return "" if self.has_matched else text
        text = self._held + text
        before = before_stop(text, self._stop)
        if before is not None:
            self.has_matched = True
            return before
        end = len(text) - max(length_of_beginning(text, stop) for stop in self._stop)
        self._held = text[end:]
        return text[:end]

    def flush(self) -> str:
        """Ends the text, and returns what was held back."""
        held, self._held = self._held, ""
        return "" if self.has_matched else held


def before_stop(text: str, stop: Sequence[str]) -> str | None:
    """Returns the text before the stop string that ends first; None if there is none.

    Of several stop strings that end at the same place, the longest counts. `stop`: texts that are
    not empty.
    """
    starts = ((text.find(string), string) for string in stop)
    matches = [(start + len(string), start) for start, string in starts if start >= 0]
    return text[: min(matches)[1]] if matches else None


def length_of_beginning(text: str, searched: str) -> int:
    """Returns the length of the longest end of `text` with which `searched` begins.

    The result is shorter than `searched`.
    """
    longest = min(len(text), len(searched) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(searched[:n])), 0)
