"""Converts texts that are JSON, as the service does for pieces of streams of some models."""

from __future__ import annotations

import re
from typing import Any

from workers_ai_emulator.tasks.response_formats.native import parsed

_MAX_WHOLE = 2**53  # JavaScript's numbers are exact up to this one
_BEGINS_AS_JSON = re.compile(r"\s*[-0-9{\[]")


def value_of(text: str) -> Any:
    """Returns the JSON number, object or list that the text is; otherwise the text.

    Whole numbers such as 1.0 or 1e3 have no decimal places, as in JavaScript.
    """
    if not _BEGINS_AS_JSON.match(text):
        return text
    try:
        value = parsed(text)
    except (ValueError, RecursionError):
        return text
    is_whole = isinstance(value, float) and value.is_integer() and abs(value) < _MAX_WHOLE
    return int(value) if is_whole else value


def number_of(text: str) -> Any:
    """Returns the number that the text is; otherwise the text."""
    value = value_of(text)
    return value if isinstance(value, int | float) else text
