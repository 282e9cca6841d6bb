"""Joins texts up to a maximum length."""

from __future__ import annotations

from collections.abc import Iterable


def joined(pieces: Iterable[str], max_characters: int) -> str | None:
    """Joins texts. Returns None if the result would have more than `max_characters` characters.

    Takes no further pieces once the result is too long.
    """
    kept: list[str] = []
    left = max_characters
    for piece in pieces:
        left -= len(piece)
        if left < 0:
            return None
        kept.append(piece)
    return "".join(kept)
