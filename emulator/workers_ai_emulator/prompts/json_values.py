"""Reads and changes the texts in JSON values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


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


def translated(value: Any, table: Mapping[int, int | str]) -> Any:
    """Returns a JSON value in which `table` has replaced characters of all texts and keys."""
    if isinstance(value, str):
        return value.translate(table)
    if isinstance(value, Mapping):
        return {key.translate(table): translated(item, table) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [translated(item, table) for item in value]
    return value
