"""Tests tool calls and JSON mode with the stand-in model, through the backend `llama`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from workers_ai_emulator.backends.local import LocalBackend
from workers_ai_emulator.engine.types import FinishReason
from workers_ai_emulator.models.catalog import CATALOG, ModelSpec
from workers_ai_emulator.models.traits import Traits
from workers_ai_emulator.runtime.embedders import Embedders
from workers_ai_emulator.runtime.model_manager import ModelManager
from workers_ai_emulator.settings import Settings
from workers_ai_emulator.tasks.completion import Completion, collect
from workers_ai_emulator.tasks.text_generation import parse
from workers_ai_emulator.wire.context import CallContext

TRAITS = Traits(has_tools=True, json_mode="text", thinking="on")
# A template like that of Qwen 3: it describes the tools itself, and begins with reasoning.
REASONING = """\
{%- if tools %}<|im_start|>system
<tools>{{ tools | tojson }}</tools>
Write <tool_call>{"name": "get_weather", "arguments": {}}</tool_call><|im_end|>
{% endif %}
{%- for m in messages %}<|im_start|>{{ m.role }}
{{ m.content }}{% for call in m.tool_calls %}<tool_call>
{"name": {{ call.function.name | tojson }}, "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}<|im_end|>
{% endfor %}<|im_start|>assistant
{% if enable_thinking %}<think>
{% else %}<think></think>
{% endif %}"""
PLACE = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 12},
        "unit": {"type": "string", "enum": ["C", "F"]},
    },
    "required": ["city", "unit"],
}
WEATHER = {"type": "function", "function": {"name": "get_weather", "parameters": PLACE}}
BODY: dict[str, Any] = {
    "messages": [{"role": "user", "content": "What is the weather in Paris?"}],
    "temperature": 0,
    "max_tokens": 80,
}
REQUIRED = BODY | {"tools": [WEATHER], "tool_choice": "required", "parallel_tool_calls": False}

Run = Callable[[dict[str, Any]], Awaitable[tuple[Completion, FinishReason | None]]]


def run(use: Callable[[Run], Awaitable[None]], template: str | None = None) -> None:
    """Calls `use` with a function that returns the completion of a body."""
    spec: ModelSpec = replace(next(iter(CATALOG.values())), traits=TRAITS, chat_template=template)

    async def main() -> None:
        models = ModelManager(Settings(parallel=2), {spec.name: spec})
        backend = LocalBackend(models, Embedders(Settings(), models))

        async def complete(body: dict[str, Any]) -> tuple[Completion, FinishReason | None]:
            started = await backend.generate(parse(body, spec), spec, CallContext())
            completion = await collect(aiter(started.generation))
            return completion, started.generation.finish_reason

        try:
            await use(complete)
        finally:
            await backend.close()

    asyncio.run(main())


@pytest.mark.parametrize("template", [None, REASONING], ids=["told by us", "template with tools"])
def test_a_required_tool_is_called_with_arguments_of_its_schema(template: str | None) -> None:
    async def use(complete: Run) -> None:
        body = REQUIRED | {"chat_template_kwargs": {"enable_thinking": False}}
        completion, reason = await complete(body)
        (call,) = completion.tool_calls
        arguments = json.loads(call.arguments)
        assert call.name == "get_weather"
        assert isinstance(arguments["city"], str) and arguments["unit"] in ("C", "F")
        assert completion.text == completion.reasoning == ""
        assert reason is FinishReason.TOOL_CALLS
        assert (await complete(body))[0] == completion, "equal requests get equal completions"

    run(use, template)


def test_the_result_of_a_tool_is_a_part_of_the_prompt() -> None:
    async def use(complete: Run) -> None:
        call = {"name": "get_weather", "arguments": {"city": "Paris", "unit": "C"}}
        results = ("25 C and sunny", "It snows, -3 C")
        completions = [
            await complete(
                BODY
                | {
                    "tools": [WEATHER],
                    "messages": [
                        *BODY["messages"],
                        {"role": "assistant", "content": "", "tool_calls": [call]},
                        {"role": "tool", "content": result},
                    ],
                }
            )
            for result in results
        ]
        assert completions[0] != completions[1]

    run(use)


def test_json_mode_gives_json_of_the_schema() -> None:
    async def use(complete: Run) -> None:
        schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": PLACE}}
        completion, reason = await complete(BODY | {"response_format": schema})
        assert json.loads(completion.text)["unit"] in ("C", "F")
        assert reason is FinishReason.STOP

    run(use)


def test_reasoning_is_separate_from_the_answer() -> None:
    async def use(complete: Run) -> None:
        completion, reason = await complete(BODY | {"max_tokens": 5})
        assert completion.reasoning and not completion.text
        assert reason is FinishReason.LENGTH
        kwargs = {"chat_template_kwargs": {"enable_thinking": False}}
        completion, _ = await complete(BODY | kwargs | {"max_tokens": 5})
        assert completion.text and not completion.reasoning

    run(use, REASONING)
