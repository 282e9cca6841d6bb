"""Finds markers in a text that arrives in pieces."""

from __future__ import annotations

from workers_ai_emulator.engine.stop_strings import length_of_beginning


def split_at(text: str, *markers: str) -> tuple[str, str, str]:
    """Splits a text at the first of the markers: into the text before, the marker and the rest.

    If there is no marker, the second item is empty, and the rest is the end of the text that may be
    the beginning of a marker.
    """
    found = [(text.index(marker), -len(marker), marker) for marker in markers if marker in text]
    if found:
        start, _, marker = min(found)
        return text[:start], marker, text[start + len(marker) :]
    cut = len(text) - max(length_of_beginning(text, marker) for marker in markers)
    return text[:cut], "", text[cut:]
