"""Limits the total size of the patterns, JSON values, templates and answers of a list of rules.

The limits keep the conversion of the list to a few seconds and little memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from pydantic import ValidationInfo

from workers_ai_emulator.backends.patterns import SIZE_OF_LARGE, Pattern, PatternTooLarge

_MAX_PATTERN = 10_000  # the maximum number of characters of a regular expression
# The maximum total size of a list's regular expressions, in RE2 instructions.
_MAX_PATTERNS_SIZE = 5_000_000
# The maximum total size of a list's JSON values, in characters. A YAML file can have values that
# are much larger than the file, because an alias repeats a value.
_MAX_JSON_SIZE = 2**23
_MAX_JSON_DEPTH = 100
_MAX_TEMPLATES = 1000  # the maximum number of texts that are templates
_MAX_TEMPLATES_SIZE = 500_000  # the maximum number of characters of all templates
_MAX_ITEMS = 100_000  # the maximum number of items of all `answers` and `tool_calls`


class Budget:
    """Converts the values of one list of rules, within the limits of the list."""

    def __init__(self) -> None:
        self._pattern_size_left = _MAX_PATTERNS_SIZE
        self._json_size_left = _MAX_JSON_SIZE
        self._num_templates_left = _MAX_TEMPLATES
        self._template_size_left = _MAX_TEMPLATES_SIZE
        self._num_items_left = _MAX_ITEMS

    def compile(self, source: str) -> Pattern:
        """Compiles a regular expression.

        Raises ValueError if the expression is invalid or too long, or if the earlier expressions
        have reached the limit of the total size.
        """
        if len(source) > _MAX_PATTERN:
            raise ValueError(f"no regular expression: it is longer than {_MAX_PATTERN} characters")
        if self._pattern_size_left <= 0:
            raise ValueError("the script's regular expressions are too large together")
        try:
            pattern = Pattern(source)
        except PatternTooLarge:
            self._pattern_size_left -= SIZE_OF_LARGE
            raise
        self._pattern_size_left -= pattern.size
        return pattern

    def json_text(self, value: Any) -> str:
        """Returns the value as a JSON text.

        Raises ValueError if JSON cannot represent the value, if it is nested too deep, or if the
        JSON values exceed the limit of the total size.
        """
        self._count_json(value)
        try:
            return json.dumps(value, ensure_ascii=False, allow_nan=False)
        except TypeError as error:  # for example a date, which YAML has and JSON has not
            raise ValueError(f"no JSON value: {error}") from error

    def count_templates(self, num: int, size: int) -> None:
        """Counts templates, which take time to compile. Raises ValueError if there are too many.

        `num`: the number of the templates. `size`: their number of characters.
        """
        self._num_templates_left -= num
        self._template_size_left -= size
        if self._num_templates_left < 0:
            raise ValueError(f"the script has more than {_MAX_TEMPLATES} texts that are templates")
        if self._template_size_left < 0:
            raise ValueError(
                f"the script's templates have more than {_MAX_TEMPLATES_SIZE} characters together"
            )

    def count_items(self, num: int) -> None:
        """Counts items of `answers` and `tool_calls`. Raises ValueError if there are too many."""
        self._num_items_left -= num
        if self._num_items_left < 0:
            raise ValueError(
                f"the script has more than {_MAX_ITEMS} items in `answers` and `tool_calls`"
            )

    def _count_json(self, value: Any) -> None:
        """Subtracts the size of a JSON value. Raises ValueError if it is too large or too deep."""
        level = [value]
        for _ in range(_MAX_JSON_DEPTH):
            self._json_size_left -= sum(map(_size, level))
            if self._json_size_left < 0:
                raise ValueError("the script's JSON values are too large together")
            level = [child for parent in level for child in _children(parent)]
            if not level:
                return
        raise ValueError(f"it has more than {_MAX_JSON_DEPTH} levels")


def budget_of(info: ValidationInfo) -> Budget:
    """Returns the budget of the list of rules; for a rule that belongs to no list, a new budget."""
    return info.context or Budget()


def num_marks(text: str) -> int:
    """Returns the number of beginnings of expressions, statements and comments of a template."""
    return sum(text.count(mark) for mark in ("{{", "{%", "{#"))


def _size(value: Any) -> int:
    """Returns about the number of characters of a value's JSON text, without its children."""
    match value:
        case dict():
            return 2 + sum(3 + _size(key) for key in value)
        case list():
            return 2 + len(value)
        case str():
            return 2 + len(value)
        case int():
            return 1 + value.bit_length() // 3
    return 10


def _children(value: Any) -> Iterable[Any]:
    match value:
        case dict():
            return value.values()
        case list():
            return value
    return ()
