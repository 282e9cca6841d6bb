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
        matches = [(start + len(stop), start) for stop, start in self._places(text)]
        if matches:
            self.has_matched = True
            return text[: min(matches)[1]]
        end = len(text) - max(_overlap(text, stop) for stop in self._stop)
        self._held = text[end:]
        return text[:end]

    def flush(self) -> str:
        """Ends the text, and returns what was held back."""
        held, self._held = self._held, ""
        return "" if self.has_matched else held

    def _places(self, text: str) -> list[tuple[str, int]]:
        """Returns each stop string that occurs in the text, and where it first begins."""
        places = ((stop, text.find(stop)) for stop in self._stop)
        return [(stop, start) for stop, start in places if start >= 0]


def _overlap(text: str, stop: str) -> int:
    """Returns the length of the longest end of the text with which the stop string begins."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
