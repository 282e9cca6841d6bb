"""The error messages for invalid data of users."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, Field, ValidationError, field_validator
from workers_ai_emulator.wire.validation import error_lines


class Item(BaseModel):
    name: str
    size: int = Field(default=1, ge=1)

    @field_validator("name")
    @classmethod
    def _is_lower(cls, value: str) -> str:
        if value != value.lower():
            raise ValueError("upper case is not allowed")
        return value


class Items(BaseModel):
    items: list[Item]


def lines_for(value: Any) -> list[str]:
    with pytest.raises(ValidationError) as caught:
        Items.model_validate(value)
    return error_lines(caught.value)


def test_each_mistake_is_a_line_with_its_place_and_the_given_value() -> None:
    assert lines_for({"items": [{"name": "a"}, {"name": 5, "size": 0}]}) == [
        "items.1.name: Input should be a valid string, not 5",
        "items.1.size: Input should be greater than or equal to 1, not 0",
    ]


def test_the_text_of_an_own_check_has_no_prefix() -> None:
    (line,) = lines_for({"items": [{"name": "A"}]})
    assert line == 'items.0.name: upper case is not allowed, not "A"'


def test_a_mistake_in_the_whole_value_has_neither_place_nor_value() -> None:
    (line,) = lines_for("x")
    assert line == "Input should be a valid dictionary or instance of Items"


def test_a_long_value_is_cut_off() -> None:
    (line,) = lines_for({"items": "x" * 1000})
    assert line == f'items: Input should be a valid list, not "{"x" * 79}'


def test_a_value_that_is_not_json_is_shown_as_text() -> None:
    (line,) = lines_for({"items": [{"name": {1, 2}}]})
    assert line.endswith('not "{1, 2}"')
