"""Decides how a request's completion is constrained and parsed, for the format of its model."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from workers_ai_emulator.engine.errors import RequestRejected
from workers_ai_emulator.prompts.output_formats.output_format import (
    Constraint,
    OutputFormat,
    Parser,
)
from workers_ai_emulator.prompts.tools import Tool
from workers_ai_emulator.tasks.text_generation import TextGenerationRequest


@dataclass(frozen=True, slots=True)
class OutputPlan:
    """How a completion is constrained and parsed.

    `parser`: None if the completion is text and nothing else. `constraint`: None if the completion
    may be any text. `shows_special_tokens`: whether the parser needs the names of special tokens.
    """

    parser: Parser | None
    constraint: Constraint | None
    shows_special_tokens: bool


def needs_grammar(request: TextGenerationRequest) -> bool:
    """Returns whether the completion of a request is constrained, in all formats of models."""
    return bool(request.tool_choice.callable_tools(request.tools) or request.json_mode)


def plan(
    request: TextGenerationRequest,
    output_format: OutputFormat,
    prompt_end: str,
    special_tokens: Mapping[str, int],
) -> OutputPlan:
    """Returns how the completion of a request is constrained and parsed.

    `prompt_end`: the text of the prompt's last tokens. `special_tokens`: the ids of the
    vocabulary's special tokens, by their names. Raises RequestRejected if the format cannot contain
    the name of a tool.
    """
    tools = request.tool_choice.callable_tools(request.tools)
    if name := next((t.name for t in tools if not output_format.can_write(t.name)), None):
        raise RequestRejected(f"The model's format of tool calls does not allow the name {name!r}.")
    stage = output_format.stage_of(prompt_end)
    if request.json_mode and not request.separates_reasoning:
        stage = "after"  # without separate reasoning, the whole text must be JSON
    is_text = request.raw or not output_format.needs_parser(tools, request.separates_reasoning)
    constraint = Constraint(
        tools=tools,
        is_required=request.tool_choice.mode == "required",
        is_parallel=request.tool_choice.allows_several,
        is_json=request.json_mode is not None,
        schema=request.json_mode.schema if request.json_mode else None,
        stage=stage,
    )
    return OutputPlan(
        parser=None
        if is_text
        else output_format.parser(tools, stage, separates_reasoning=request.separates_reasoning),
        constraint=constraint if needs_grammar(request) else None,
        shows_special_tokens=not is_text and bool(output_format.marker_tokens(special_tokens)),
    )


def without_schemas(constraint: Constraint, tools: Collection[Tool]) -> Constraint:
    """Returns a constraint that accepts any JSON object as the arguments of these tools."""
    kept = (
        Tool(tool.name, tool.description, {"type": "object"}) if tool in tools else tool
        for tool in constraint.tools
    )
    return replace(constraint, tools=tuple(kept))
