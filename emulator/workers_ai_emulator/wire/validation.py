"""Validates the rules of faults and scripts, and describes each mistake in one printable line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from workers_ai_emulator.files import one_line

_MAX_LINES = 20
_MAX_LINE = 400  # a line of an error message is cut to this many characters
_MAX_VALUE = 80  # the maximum number of characters that a line shows of an invalid value
# The maximum number of keys of one rule. pydantic creates an error for each unknown key, so a
# million unknown keys would take gigabytes of memory.
_MAX_KEYS = 100

_Model = TypeVar("_Model", bound=BaseModel)


def parse_rules_of(
    model: type[_Model], items: Iterable[Any], *, strict: bool = False, context: Any = None
) -> list[_Model]:
    """Validates each JSON value as a rule of type `model`, and returns the rules.

    Raises ValueError with one line per mistake: at most 20 lines, then the number of further
    mistakes.
    `strict`: whether pydantic refuses values of a wrong type. If False, pydantic converts some of
    these values, for example the string `"1"` to a number.
    `context`: a value that pydantic passes to the validators of `model`.
    """
    rules: list[_Model] = []
    lines: list[str] = []
    num_mistakes = 0
    for number, item in enumerate(items, 1):
        try:
            _check_num_keys(item)
            rules.append(model.model_validate(item, strict=strict or None, context=context))
        except ValidationError as error:
            num_mistakes += error.error_count()
            if len(lines) < _MAX_LINES:
                lines += [f"rule {number}: {_line(detail, model)}" for detail in error.errors()]
        except ValueError as error:
            num_mistakes += 1
            lines.append(f"rule {number}: {error}")
    if num_mistakes:
        raise ValueError("\n".join(_first(lines, num_mistakes)))
    return rules


def error_lines(error: ValidationError) -> list[str]:
    """Returns one line per mistake: the field, the reason, and the start of the invalid value.

    For more than 20 mistakes, returns 20 lines and a last line with the number of further mistakes.
    """
    details = error.errors()
    return _first([_line(detail) for detail in details[:_MAX_LINES]], len(details))


def shown(value: Any) -> str:
    """Returns the first 80 characters of a value's JSON, on one line.

    Converts only the beginning of the value, because the whole value may be huge.
    """
    if isinstance(value, str):
        value = value[:_MAX_VALUE]
    text = ""
    try:
        for part in json.JSONEncoder(default=str).iterencode(value):
            text += part[:_MAX_VALUE]
            if len(text) >= _MAX_VALUE:
                break
    # The value cannot be converted to JSON, for example because it contains itself.
    except (ValueError, TypeError, RecursionError):
        text += "..."
    return one_line(text)[:_MAX_VALUE]


def bounded(text: str) -> str:
    """Returns the text as one printable line. Cuts a long line to 400 characters and adds `...`."""
    line = one_line(" ".join(text[: 10 * _MAX_LINE].split()))
    return line if len(line) <= _MAX_LINE else f"{line[:_MAX_LINE]}..."


def _check_num_keys(item: Any) -> None:
    if isinstance(item, dict) and len(item) > _MAX_KEYS:
        raise ValueError(f"it has {len(item)} keys, which is more than {_MAX_KEYS}")


def _first(lines: Sequence[str], num_mistakes: int) -> list[str]:
    kept = list(lines[:_MAX_LINES])
    more = num_mistakes - len(kept)
    return [*kept, f"and {more} more"] if more else kept


def _line(detail: Any, model: type[BaseModel] | None = None) -> str:
    """Returns one line for a mistake. `detail`: a dict, whose type pydantic does not export.

    `model`: the type of the rule, whose keys are suggested in place of an unknown key.
    """
    where = one_line(".".join(str(part)[:_MAX_VALUE] for part in detail["loc"]))[:_MAX_VALUE]
    message = bounded(detail["msg"].removeprefix("Value error, "))
    line = f"{where}: {message}, not {shown(detail['input'])}" if where else message
    is_unknown_key = detail["type"] == "extra_forbidden" and len(detail["loc"]) == 1
    return line + _suggestion(where, model) if model and is_unknown_key else line


def _suggestion(key: str, model: type[BaseModel]) -> str:
    """Returns a suggestion if one of the model's keys is similar to `key`, otherwise an empty text.

    Of a model's fields, the key is the alias if there is one.
    """
    names = [field.alias or name for name, field in model.model_fields.items()]
    return "".join(f"; did you mean `{name}`?" for name in get_close_matches(key, names, n=1))
