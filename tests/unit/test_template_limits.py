"""Tests that no template takes long to compile or to render, however it is nested."""

from __future__ import annotations

import pytest
from workers_ai_emulator.backends.answer_template import TemplateFailed, _environment, compiled
from workers_ai_emulator.backends.rules import parse_rules

VALUES = {"groups": {}, "text": "ab " * 1000, "model": "m", "account": "", "call": 1}


def rendered(source: str) -> str:
    return compiled(source, None, key="answer")(VALUES)


@pytest.mark.parametrize(
    "source",
    [
        "{% if call %}" * 150 + "{% endif %}" * 150,  # Python allows 100 levels of indentation
        "{{ " + "not " * 210 + "call }}",  # Python allows 200 levels of parentheses
        "{{ call" + " + call" * 210 + " }}",
        "{{ text" + " | lower" * 210 + " }}",
        "{{ " + "[" * 150 + "1" + "]" * 150 + " }}",
    ],
)
def test_a_template_that_is_nested_too_deep_is_a_mistake_in_the_rule(source: str) -> None:
    with pytest.raises(ValueError, match="no valid template: it is nested too deep"):
        parse_rules([{"template": True, "answer": source}])


def test_jinjas_optimizer_is_off() -> None:
    # The optimizer would need seconds for each of these expressions.
    sources = ["{{ " + "not " * 190 + "call }}", "{{ text[0]" + " | lower" * 190 + " }}"]
    assert [rendered(source) for source in sources] == ["True", "a"]
    assert _environment().optimized is False


def test_a_script_may_have_a_thousand_templates() -> None:
    rules = parse_rules([{"template": True, "answer": "{{ call }}"}] * 1000)
    assert len(rules) == 1000


def test_texts_without_expressions_do_not_count_as_templates() -> None:
    rule = {"template": True, "answer": "plain", "reasoning": "{{ call }}"}
    assert len(parse_rules([rule] * 1000)) == 1000
    with pytest.raises(ValueError, match="rule 1001: the script has more than 1000 texts"):
        parse_rules([rule] * 1001)


def test_the_templates_of_a_script_are_limited_together() -> None:
    rule = {"template": True, "answer": "{{ call }}" + "a" * 9000}
    with pytest.raises(ValueError, match="templates have more than 500000 characters together"):
        parse_rules([rule] * 60)


def test_the_filters_of_a_template_read_a_limited_number_of_characters() -> None:
    long = "{{ text | replace(' ', '" + " x" * 150 + "')" + " | title" * 100 + " }}"
    with pytest.raises(TemplateFailed, match="its filters would read more than 4194304 characters"):
        rendered(long)
    assert rendered("{{ text | title | trim }}").startswith("Ab Ab")


def test_each_rendering_may_read_the_whole_number_of_characters() -> None:
    source = "{{ text | replace(' ', '" + " x" * 150 + "') | lower | lower | lower | length }}"
    assert [rendered(source) for _ in range(3)] == ["302000"] * 3


@pytest.mark.parametrize("filter_", ["truncate(2)", "truncate(9, leeway=-1)", "trim(5)"])
def test_a_filter_with_a_wrong_argument_fails_for_the_call(filter_: str) -> None:
    with pytest.raises(TemplateFailed):
        rendered("{{ text | " + filter_ + " }}")


@pytest.mark.parametrize("source", ["{{ 1e400 }}", "{{ -1e400 }}", "{{ text | truncate(1e400) }}"])
def test_an_infinite_number_is_a_mistake_in_the_rule(source: str) -> None:
    with pytest.raises(ValueError, match="rule 1: `answer`: no valid template: a number is too"):
        parse_rules([{"template": True, "answer": source}])
