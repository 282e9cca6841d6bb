"""Ends the text of a completion before the first stop string of its request."""

from __future__ import annotations

from collections.abc import Sequence


class StopMatcher:
    """Searches a text for stop strings, piece by piece, in time proportional to the text's length.

    Of several stop strings in the text, the one that ends first counts; of those that end at the
    same place, the longest. So the result does not depend on where the text is divided into pieces.
    `stop`: the stop strings; empty strings are ignored. `has_matched`: whether a stop string has
    been found.
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self._searches = [_Search(text) for text in stop if text]
        self._held = ""  # the end of the text so far, if it may be the beginning of a stop string
        self.has_matched = False

    def feed(self, text: str) -> str:
        """Adds a piece of the text, and returns the text that cannot be part of a stop string.

        Once a stop string has been found, returns the text before it, and later nothing.
        """
        if self.has_matched or not self._searches:
            return "" if self.has_matched else text
        num_held = len(self._held)
        whole = self._held + text
        for end, character in enumerate(text, num_held + 1):
            if length := self._length_of_match(character):
                self.has_matched = True
                return whole[: end - length]
        cut = len(whole) - max(search.length for search in self._searches)
        self._held = whole[cut:]
        return whole[:cut]

    def flush(self) -> str:
        """Ends the text, and returns what was held back."""
        held, self._held = self._held, ""
        return "" if self.has_matched else held

    def _length_of_match(self, character: str) -> int:
        """Adds a character. Returns the length of the longest stop string that ends with it, or 0.

        Afterwards, each search's `length` contains the character.
        """
        longest = 0
        for search in self._searches:
            if search.feed(character):
                longest = max(longest, search.length)
        return longest


class _Search:
    """Searches a text for one string, with the algorithm of Knuth, Morris and Pratt.

    `length`: the length of the longest beginning of the string with which the text so far ends.
    """

    def __init__(self, searched: str) -> None:
        self._searched = searched
        self.length = 0
        # At index n: the length of the longest beginning of the string with which its first n
        # characters end, without those n characters themselves. The list is only as long as needed.
        self._shorter = [0, 0]

    def feed(self, character: str) -> bool:
        """Adds a character. Returns whether the text now ends with the whole string.

        May not be called after it has returned True.
        """
        self.length = self._extended(self.length, character)
        if self.length == len(self._shorter):
            self._shorter.append(self._extended(self._shorter[-1], character))
        return self.length == len(self._searched)

    def _extended(self, length: int, character: str) -> int:
        """Returns the length of the longest beginning after a character is added.

        `length`: that length before.
        """
        while length and self._searched[length] != character:
            length = self._shorter[length]
        return length + 1 if self._searched[length] == character else 0


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
