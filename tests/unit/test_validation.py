"""Tests the error messages for invalid data that users write."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from workers_ai_emulator.wire.validation import bounded, error_lines, parse_rules_of, shown


class Item(BaseModel):
    name: str
    size: int = Field(default=1, ge=1)

    @field_validator("name")
    @classmethod
    def _is_lower(cls, value: str) -> str:
        if value != value.lower():
            raise ValueError("upper case is not allowed")
        return value


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Items(BaseModel):
    items: list[Item]


def lines_for(value: Any) -> list[str]:
    with pytest.raises(ValidationError) as caught:
        Items.model_validate(value)
    return error_lines(caught.value)


def test_each_mistake_is_a_line_with_its_place_and_the_given_value() -> None:
    assert lines_for({"items": [{"name": "a"}, {"name": 5, "size": 0}]}) == [
        "`items[1].name` takes a text, not 5",
        "`items[1].size` takes a number from 1, not 0",
    ]


def test_the_text_of_an_own_check_has_no_prefix() -> None:
    (line,) = lines_for({"items": [{"name": "A"}]})
    assert line == '`items[0].name`: upper case is not allowed, not "A"'


def test_a_mistake_in_the_whole_value_has_no_place() -> None:
    (line,) = lines_for("x")
    assert line == 'it takes an object with keys and values, not "x"'


def test_a_long_value_is_cut_off() -> None:
    (line,) = lines_for({"items": "x" * 1000})
    assert line == f'`items` takes a list, not "{"x" * 79}'


def test_a_value_that_is_not_json_is_shown_as_text() -> None:
    (line,) = lines_for({"items": [{"name": {1, 2}}]})
    assert line.endswith('not "{1, 2}"')


def test_a_value_whose_aliases_multiply_is_shown_in_bounded_time() -> None:
    value: Any = ["x"]
    for _ in range(60):
        value = [value] * 9
    assert shown(value) == "[" * 61 + '"x"], ["x"], ["x"],'


def test_a_value_without_end_is_shown_in_part() -> None:
    circle: list[Any] = ["x"]
    circle.append(circle)
    assert shown(circle) == '["x", ...'
    assert shown({("a",): 1}) == "{..."


@pytest.mark.parametrize("depth", [100, 20_000])
def test_a_deeply_nested_value_is_cut_off(depth: int) -> None:
    value: Any = "x"
    for _ in range(depth):
        value = [value]
    assert shown(value) == "[" * 80


def test_control_characters_are_escaped_everywhere() -> None:
    (line,) = lines_for({"items": [{"name": "a\x7f\x1b[31m\u2028", "size": "\x9b"}]})
    assert line.isprintable()
    with pytest.raises(ValidationError) as caught:
        Strict.model_validate({"\x1b]0;a\x07\n": 1})
    assert error_lines(caught.value) == [
        r"unknown key `\x1b]0;a\x07\n`",
    ]


def test_a_long_name_is_cut_off() -> None:
    with pytest.raises(ValidationError) as caught:
        Strict.model_validate({"x" * 10_000: 1})
    (line,) = error_lines(caught.value)
    assert line == f"unknown key `{'x' * 80}`"


def test_after_twenty_mistakes_of_one_value_the_rest_is_counted() -> None:
    lines = lines_for({"items": [{"name": 5}] * 50})
    assert len(lines) == 21 and lines[-1] == "and 30 more"


def test_after_twenty_mistakes_of_all_rules_the_rest_is_counted() -> None:
    with pytest.raises(ValueError) as caught:
        parse_rules_of(Item, [{"name": 5, "size": 0}] * 3000)
    lines = str(caught.value).splitlines()
    assert lines[0] == "rule 1: `name` takes a text, not 5"
    assert len(lines) == 21 and lines[-1] == "and 5980 more"


def test_a_rule_with_many_keys_is_one_mistake() -> None:
    with pytest.raises(ValueError, match=r"^rule 2: it has 100000 keys, which is more than 100$"):
        parse_rules_of(Item, [{"name": "a"}, {str(n): n for n in range(100_000)}])


def test_a_line_of_any_text_is_bounded_and_printable() -> None:
    assert bounded("a\n b\x1b") == r"a b\x1b"
    assert bounded("x" * 1000) == "x" * 400 + "..."


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid")

    seconds: float = Field(default=0.0, ge=0, le=10)
    kind: Literal["text", "call"] = "text"


class Rule(BaseModel):
    model_config = ConfigDict(extra="forbid")

    model: str = ""
    json_text: str = Field(default="", alias="json")
    times: int | None = Field(default=None, ge=1)
    parts: tuple[Part, ...] = Field(default=(), max_length=2)
    contains: str = Field(default="", max_length=3)
    is_on: bool = False
    last: int = 0


@pytest.mark.parametrize(
    ("rule", "line"),
    [
        ({"modle": 1}, "unknown key `modle`; did you mean `model`?"),
        ({"jsn": 1}, "unknown key `jsn`; did you mean `json`?"),
        ({"speed": 1}, "unknown key `speed`"),
        ({"x" * 10_000: 1}, f"unknown key `{'x' * 80}`"),
        ({"parts": [{"kin": 1}]}, "unknown key `parts[0].kin`; did you mean `kind`?"),
        ({"parts": [{"x": 1}]}, "unknown key `parts[0].x`; the keys are `seconds`, `kind`"),
        ({"times": 0}, "`times` takes a whole number from 1, not 0"),
        ({"times": 1.5}, "`times` takes a whole number from 1, not 1.5"),
        ({"times": "x"}, '`times` takes a whole number from 1, not "x"'),
        (
            {"parts": [{}, {"seconds": 11}]},
            "`parts[1].seconds` takes a number from 0 to 10, not 11",
        ),
        (
            {"parts": [{"kind": "txt"}]},
            '`parts[0].kind` takes one of text or call, not "txt"; did you mean `text`?',
        ),
        ({"parts": [{}] * 3}, "`parts` takes at most 2 values, not [{}, {}, {}]"),
        ({"parts": {}}, "`parts` takes a list, not {}"),
        ({"contains": "long"}, '`contains` takes a text of at most 3 characters, not "long"'),
        ({"is_on": "maybe"}, '`is_on` takes true or false, not "maybe"'),
        ([], "it takes an object with keys and values, not []"),
    ],
)
def test_a_line_names_the_key_and_what_it_takes(rule: Any, line: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_rules_of(Rule, [rule])
    assert str(caught.value) == f"rule 1: {line}"
