"""Parses JSON, reads and changes the texts in JSON values, and checks the depth of the values."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

# The maximum depth of the JSON values in a request that become a part of the prompt or a grammar.
# The functions that read such values call themselves for each level, which Python allows only about
# 1000 times.
MAX_DEPTH = 100


def parse_json(text: str) -> Any:
    """Returns the value of a JSON text.

    Raises ValueError if the text is not JSON, or if a number is infinite or `NaN`: Python's parser
    accepts such numbers, but JSON cannot express them. Raises RecursionError if the value is nested
    deeper than Python's parser can read.
    """
    return json.loads(text, parse_constant=_finite, parse_float=_finite)


def json_or_none(text: str | bytes) -> Any:
    """Returns the value of a JSON text, or None if the text is not JSON.

    Unlike `parse_json`, accepts infinite numbers and `NaN`.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def object_or_none(text: str) -> dict[str, Any] | None:
    """Returns the object that a JSON text is, or None if the text is no JSON object."""
    value = json_or_none(text)
    return value if isinstance(value, dict) else None


def is_too_deep(value: Any, max_depth: int = MAX_DEPTH) -> bool:
    """Returns whether more than `max_depth` lists and objects are nested in each other."""
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(max_depth):
        if not level:
            return False
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
    return bool(level)


def texts_of(value: Any) -> Iterator[str]:
    """Yields all texts and keys in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield key
            yield from texts_of(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from texts_of(item)


def texts_without_keys(value: Any) -> Iterator[str]:
    """Yields all texts in a JSON value, except the keys of objects."""
    match value:
        case str():
            yield value
        case dict():
            for item in value.values():
                yield from texts_without_keys(item)
        case list():
            for item in value:
                yield from texts_without_keys(item)


def translated(value: Any, table: Mapping[int, int | str]) -> Any:
    """Returns a JSON value in which `table` has replaced characters of all texts and keys."""
    if isinstance(value, str):
        return value.translate(table)
    if isinstance(value, Mapping):
        return {key.translate(table): translated(item, table) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [translated(item, table) for item in value]
    return value


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {text[:20]} is not finite")
    return number
