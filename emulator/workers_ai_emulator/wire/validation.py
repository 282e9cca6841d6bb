"""Error messages for invalid data of users."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

_Rule = TypeVar("_Rule", bound=BaseModel)


def error_lines(error: ValidationError) -> list[str]:
    """Returns one line per mistake, with its place, the reason and the start of the given value."""
    return [_line(detail) for detail in error.errors()]


def parse_rule_list(
    rule_type: type[_Rule], values: Iterable[Any], *, strict: bool = False
) -> list[_Rule]:
    """Returns a rule for each JSON value. Raises ValueError with one line per mistake.

    `strict`: no value is converted to another type.
    """
    rules, lines = [], []
    for number, value in enumerate(values, 1):
        try:
            rules.append(rule_type.model_validate(value, strict=strict))
        except ValidationError as error:
            lines += [f"rule {number}: {line}" for line in error_lines(error)]
    if lines:
        raise ValueError("\n".join(lines))
    return rules


def _line(detail: Any) -> str:  # a dictionary whose type only pydantic_core exports
    where = ".".join(map(str, detail["loc"]))
    given = json.dumps(detail["input"], default=str)[:80]
    message = detail["msg"].removeprefix("Value error, ")
    return f"{where}: {message}, not {given}" if where else message
