"""Error messages for invalid data of users."""

from __future__ import annotations

import json
from typing import Any

from pydantic import ValidationError


def error_lines(error: ValidationError) -> list[str]:
    """Returns one line per mistake, with its place, the reason and the start of the given value."""
    return [_line(detail) for detail in error.errors()]


def _line(detail: Any) -> str:  # a dictionary whose type only pydantic_core exports
    where = ".".join(map(str, detail["loc"]))
    given = json.dumps(detail["input"], default=str)[:80]
    message = detail["msg"].removeprefix("Value error, ")
    return f"{where}: {message}, not {given}" if where else message
