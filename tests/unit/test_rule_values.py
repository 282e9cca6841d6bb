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
