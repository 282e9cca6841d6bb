"""Tests of how chunks are collected to one completion."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from workers_ai_emulator.engine.types import Chunk, FinishReason, ToolCallDelta
from workers_ai_emulator.prompts.tools import ToolCall
from workers_ai_emulator.tasks.completion import Completion, collect
from workers_ai_emulator.wire.errors import WireError

from tests.loop import in_loop


async def stream(*chunks: Chunk) -> AsyncIterator[Chunk]:
    for chunk in chunks:
        yield chunk


@in_loop
async def test_text_and_reasoning_are_joined_apart() -> None:
    chunks = stream(
        Chunk(reasoning="Hm"), Chunk(reasoning="."), Chunk("Yes"), Chunk("!", FinishReason.STOP)
    )
    assert await collect(chunks) == Completion("Yes!", "Hm.", num_reasoning_tokens=2)


@in_loop
async def test_the_parts_of_each_tool_call_are_joined() -> None:
    chunks = stream(
        Chunk(tool_call=ToolCallDelta(0, name="add", id="a1")),
        Chunk(tool_call=ToolCallDelta(0, '{"x"')),
        Chunk(tool_call=ToolCallDelta(0, ": 1}")),
        Chunk(tool_call=ToolCallDelta(1, "{}", name="stop")),
        Chunk(finish_reason=FinishReason.TOOL_CALLS),
    )
    calls = (ToolCall("add", '{"x": 1}', "a1"), ToolCall("stop", "{}"))
    assert (await collect(chunks)).tool_calls == calls


@in_loop
async def test_a_cancelled_completion_is_an_error() -> None:
    with pytest.raises(WireError, match="aborted"):
        await collect(stream(Chunk("Hel"), Chunk("", FinishReason.CANCELLED)))
