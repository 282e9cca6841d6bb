"""What is wrong with a user's data, in lines for people."""

from __future__ import annotations

import json
from typing import Any

from pydantic import ValidationError


def error_lines(error: ValidationError) -> list[str]:
    """A line for each mistake: where it is, what it takes, what was given."""
    return [_line(detail) for detail in error.errors()]


def _line(detail: Any) -> str:  # a dictionary, of a type that only pydantic's core has a name for
    where = ".".join(map(str, detail["loc"]))
    given = json.dumps(detail["input"], default=str)[:80]
    message = detail["msg"].removeprefix("Value error, ")
    return f"{where}: {message}, not {given}" if where else message
