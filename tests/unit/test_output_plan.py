"""Tests how a request's completion is constrained and parsed."""

from __future__ import annotations

from dataclasses import replace

import pytest
from workers_ai_emulator.backends.output_plan import OutputPlan, plan, without_schemas
from workers_ai_emulator.engine.errors import RequestRejected
from workers_ai_emulator.engine.types import SamplingParams
from workers_ai_emulator.prompts.output_formats.harmony import HarmonyFormat
from workers_ai_emulator.prompts.output_formats.hermes import HermesFormat
from workers_ai_emulator.prompts.output_formats.output_format import (
    Constraint,
    OutputFormat,
    ThinkingTags,
)
from workers_ai_emulator.prompts.tools import Tool, ToolChoice
from workers_ai_emulator.tasks.json_mode import JsonMode
from workers_ai_emulator.tasks.text_generation import TextGenerationRequest

TOOLS = (Tool("a", "", {"properties": {}}), Tool("b", "", {}))
PLAIN = HermesFormat()
THINKING = HermesFormat(ThinkingTags())
REQUEST = TextGenerationRequest(None, [], raw=False, stream=False, params=SamplingParams())
WITH_TOOLS = replace(REQUEST, tools=TOOLS)


def plan_of(
    request: TextGenerationRequest, output_format: OutputFormat = PLAIN, prompt_end: str = ""
) -> OutputPlan:
    return plan(request, output_format, prompt_end, {"<tool_call>": 7, "<|channel|>": 8})


def test_a_plain_completion_is_neither_parsed_nor_constrained() -> None:
    assert plan_of(REQUEST) == OutputPlan(None, None, False)


def test_reasoning_is_parsed_unless_it_stays_in_the_text_or_the_prompt_is_raw() -> None:
    found = plan_of(REQUEST, THINKING)
    assert found.parser and not found.constraint
    assert plan_of(replace(REQUEST, separates_reasoning=False), THINKING).parser is None
    assert plan_of(replace(REQUEST, raw=True), THINKING).parser is None


def test_channels_are_always_parsed_and_need_special_tokens() -> None:
    found = plan_of(replace(REQUEST, separates_reasoning=False), HarmonyFormat())
    assert found.parser and found.shows_special_tokens and not found.constraint


def test_tools_are_parsed_and_constrained() -> None:
    found = plan_of(WITH_TOOLS)
    assert found.parser and found.shows_special_tokens
    assert found.constraint == Constraint(TOOLS)


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (ToolChoice("none"), None),
        (ToolChoice("required"), Constraint(TOOLS, is_required=True, is_parallel=False)),
        (ToolChoice("required", is_parallel=True), Constraint(TOOLS, is_required=True)),
        (
            ToolChoice("required", "b"),
            Constraint(TOOLS[1:], is_required=True, is_parallel=False),
        ),
        (ToolChoice(is_parallel=True), Constraint(TOOLS)),
        (ToolChoice(is_parallel=False), Constraint(TOOLS, is_parallel=False)),
    ],
)
def test_the_choice_decides_which_tools_may_be_called(
    choice: ToolChoice, expected: Constraint | None
) -> None:
    found = plan_of(replace(WITH_TOOLS, tool_choice=choice))
    assert found.constraint == expected
    assert (found.parser is None) == (expected is None)


@pytest.mark.parametrize(
    ("output_format", "name"),
    [(HermesFormat(), "f\ud800"), (HarmonyFormat(), "get weather"), (HarmonyFormat(), "<|call|>")],
)
def test_a_name_that_a_call_cannot_contain_is_rejected(
    output_format: OutputFormat, name: str
) -> None:
    request = replace(REQUEST, tools=(Tool(name, "", {}),))
    with pytest.raises(RequestRejected, match="does not allow the name"):
        plan_of(request, output_format)
    plan_of(replace(REQUEST, tools=(Tool("name_1.x", "", {}),)), output_format)
    plan_of(replace(REQUEST, tools=(Tool('a "b" <c>', "", {}),)), HermesFormat())


def test_json_mode_is_constrained_after_the_reasoning() -> None:
    request = replace(REQUEST, json_mode=JsonMode({"type": "string"}))
    inside = plan_of(request, THINKING, "<think>\n").constraint
    assert inside == Constraint(is_json=True, schema={"type": "string"}, stage="inside")
    bare = replace(request, separates_reasoning=False)
    found = plan_of(bare, THINKING, "<think>\n")
    assert found.parser is None
    assert found.constraint == Constraint(is_json=True, schema={"type": "string"}, stage="after")


def test_the_schemas_of_some_tools_can_be_left_out() -> None:
    constraint = without_schemas(Constraint(TOOLS, is_parallel=False), TOOLS[:1])
    assert constraint.tools == (Tool("a", "", {"type": "object"}), TOOLS[1])
    assert not constraint.is_parallel
