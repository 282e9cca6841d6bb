"""Tests the parser of JSON texts, and how deeply JSON values may be nested."""

from __future__ import annotations

from typing import Any

import pytest
from workers_ai_emulator.json_values import (
    MAX_DEPTH,
    is_too_deep,
    json_or_none,
    object_or_none,
)


def nested(depth: int) -> Any:
    """Returns lists and objects in each other, with a text in the innermost one."""
    value: Any = "x"
    for number in range(depth):
        value = {"a": 1, "b": value} if number % 2 else [value, 2]
    return value


@pytest.mark.parametrize("limit", [0, 1, 2, 3, MAX_DEPTH])
def test_a_value_is_too_deep_if_it_has_more_levels_than_the_limit(limit: int) -> None:
    assert not is_too_deep(nested(limit), limit)
    assert is_too_deep(nested(limit + 1), limit)


def test_the_default_limit_is_that_of_values_that_are_rendered() -> None:
    assert not is_too_deep(nested(MAX_DEPTH))
    assert is_too_deep(nested(MAX_DEPTH + 1))


@pytest.mark.parametrize("text", ["", "{", "a", "[" * 100_000])
def test_a_text_that_is_not_json_has_no_value(text: str) -> None:
    assert json_or_none(text) is None
    assert object_or_none(text) is None


@pytest.mark.parametrize("text", ["1", '"a"', "[{}]", "null", "true"])
def test_other_json_values_are_not_objects(text: str) -> None:
    assert object_or_none(text) is None
    assert object_or_none(f'{{"a": {text}}}') == {"a": json_or_none(text)}
