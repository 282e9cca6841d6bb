"""Validates rules that users write, and converts pydantic's errors to lines of text."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

_Rule = TypeVar("_Rule", bound=BaseModel)


def error_lines(error: ValidationError) -> list[str]:
    """Returns one line per mistake: the field, the reason, and the start of the invalid value."""
    return [_line(detail) for detail in error.errors()]


def parse_rule_list(
    rule_type: type[_Rule], values: Iterable[Any], *, strict: bool = False
) -> list[_Rule]:
    """Validates each JSON value as a rule of type `rule_type`, and returns the rules.

    Raises ValueError, with one line per mistake. `strict`: pydantic converts no value to another
    type, for example no text to a number.
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


def _line(detail: Any) -> str:  # pydantic does not export the type of `detail`
    where = ".".join(map(str, detail["loc"]))
    given = json.dumps(detail["input"], default=str)[:80]
    message = detail["msg"].removeprefix("Value error, ")
    return f"{where}: {message}, not {given}" if where else message
