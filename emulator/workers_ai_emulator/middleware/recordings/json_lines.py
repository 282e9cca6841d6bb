"""Finds the line of a value in a JSON text, for error messages about files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from json import JSONDecoder

_DECODER = JSONDecoder()
_SEPARATORS = re.compile(r"[ \t\n\r,:]*")


def line_of(text: str, place: Sequence[str | int]) -> int:
    """Returns the number of the line in which a value begins, from 1 on.

    `text`: valid JSON. `place`: the keys and indices that lead to the value. If the value does not
    exist, returns the line of the object or list in which it is missing.
    """
    index = _skip(text, 0)
    for key in place:
        found = _find(text, index, key)
        if found is None:
            break
        index = found
    return text.count("\n", 0, index) + 1


def _find(text: str, index: int, key: str | int) -> int | None:
    """Returns the index in `text` of an item of the object or list that begins at `index`."""
    is_object = text[index] == "{"
    if not is_object and text[index] != "[":
        return None
    index, name = _skip(text, index + 1), -1
    while text[index] not in "}]":
        if is_object:
            name, index = _DECODER.raw_decode(text, index)
            index = _skip(text, index)
        else:
            name += 1
        if name == key:
            return index
        index = _skip(text, _DECODER.raw_decode(text, index)[1])
    return None


def _skip(text: str, index: int) -> int:
    match = _SEPARATORS.match(text, index)
    return match.end() if match else index
