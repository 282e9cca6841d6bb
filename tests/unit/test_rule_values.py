"""Tests that values of a wrong type, and accounts that cannot exist, are mistakes in a rule."""

from __future__ import annotations

from typing import Any

import pytest
from workers_ai_emulator.backends.rules import parse_rules
from workers_ai_emulator.middleware.faults.rules import parse_fault_rules


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("times", True, "`times` takes a whole number from 1, not true"),
        ("times", "2", '`times` takes a whole number from 1, not "2"'),
        ("turn", True, "`turn` takes a whole number from 1, not true"),
        ("stream", "yes", '`stream` takes true or false, not "yes"'),
        ("stream", 1, "`stream` takes true or false, not 1"),
        ("account", "zz", '`account` takes 32 hexadecimal digits (0-9, a-f), not "zz"'),
        ("account", "A" * 32, "`account` takes 32 hexadecimal digits (0-9, a-f), not "),
    ],
)
def test_conditions_with_wrong_values_are_mistakes(key: str, value: Any, line: str) -> None:
    for parse, rule in ((parse_rules, {"answer": "x"}), (parse_fault_rules, {"fault": "reset"})):
        with pytest.raises(ValueError) as caught:
            parse([{**rule, key: value}])
        assert line in str(caught.value)


@pytest.mark.parametrize(
    "rule", [{"answer": "x", "template": "yes"}, {"answers": ["x"], "cycle": 1}]
)
def test_switches_with_wrong_values_are_mistakes(rule: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="takes true or false"):
        parse_rules([rule])


MANY_KEYS = {f"k{number}": 1 for number in range(101)}


@pytest.mark.parametrize(
    ("rule", "line"),
    [
        ({"answers": [MANY_KEYS]}, "rule 1: `answers[0]`: it has 101 keys, which is more than 100"),
        (
            {"answers": [{"tool_calls": [MANY_KEYS]}]},
            "rule 1: `answers[0].tool_calls[0]`: it has 101 keys, which is more than 100",
        ),
        ({"answers": 1001 * [1]}, "rule 1: `answers` takes at most 1000 values, not "),
        ({"tool_calls": 101 * [1]}, "rule 1: `tool_calls` takes at most 100 values, not "),
        ({"answer": "x", "headers": MANY_KEYS}, "rule 1: `headers` takes at most 50 values, not "),
        ({"answers": 1000 * [{}]}, "rule 1: `answers[0]`: it needs "),
        ({"tool_calls": 100 * [{}]}, "rule 1: `tool_calls[0].name` is missing"),
    ],
)
def test_large_nested_values_are_one_mistake(rule: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_rules([rule])
    (only,) = str(caught.value).splitlines()
    assert only.startswith(line)


@pytest.mark.parametrize(
    "rule",
    [{"answers": 1000 * ["x"]}, {"answers": 10 * [{"tool_calls": 99 * [{"name": "f"}]}]}],
    ids=["answers", "tool calls"],
)
def test_the_answers_and_tool_calls_of_all_rules_have_one_limit(rule: dict[str, Any]) -> None:
    assert len(parse_rules(100 * [rule])) == 100
    with pytest.raises(ValueError) as caught:
        parse_rules(102 * [rule])
    assert "more than 100000 items in `answers` and `tool_calls`" in str(caught.value)
    assert "rule 101: `answers" in str(caught.value)
