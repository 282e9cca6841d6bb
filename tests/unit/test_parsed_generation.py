"""Tests generations whose text is split into answer, reasoning and tool calls."""

from __future__ import annotations

from collections.abc import AsyncIterator

from workers_ai_emulator.backends.parsed_generation import ParsedGeneration
from workers_ai_emulator.backends.relayed import ReadyGeneration
from workers_ai_emulator.engine.types import Chunk, FinishReason, ToolCallDelta
from workers_ai_emulator.prompts.output_formats.hermes import HermesFormat
from workers_ai_emulator.prompts.output_formats.output_format import ThinkingTags
from workers_ai_emulator.prompts.tools import Tool

from tests.loop import in_loop

TOOLS = [Tool("add", "", {"type": "object"})]
CALL = '<tool_call>\n{"name": "add", "arguments": {"x": 1}}\n</tool_call>'


def parsed(*texts: str, reason: FinishReason = FinishReason.STOP) -> ParsedGeneration:
    """Returns a generation with one chunk for each text, and an empty last chunk."""
    chunks = [*map(Chunk, texts), Chunk("", reason)]
    generation = ReadyGeneration(chunks, num_prompt_tokens=3, fingerprint="f")
    return ParsedGeneration(generation, HermesFormat(ThinkingTags()).parser(TOOLS, "before"))


async def all_of(generation: AsyncIterator[Chunk] | ParsedGeneration) -> list[Chunk]:
    return [chunk async for chunk in generation]


@in_loop
async def test_chunks_of_a_text_stay_as_they_are() -> None:
    generation = parsed("Hel", "lo")
    assert await all_of(generation) == [
        Chunk("Hel"),
        Chunk("lo"),
        Chunk("", FinishReason.STOP),
    ]
    assert generation.finish_reason is FinishReason.STOP
    assert generation.fingerprint == "f"
    assert generation.usage.num_prompt_tokens == 3


@in_loop
async def test_reasoning_and_answer_are_apart_and_all_tokens_are_counted() -> None:
    generation = parsed("<th", "ink>a", "b</think>c", " <", "x")
    chunks = await all_of(generation)
    assert chunks == [
        Chunk(reasoning="a", num_tokens=2),
        Chunk(reasoning="b"),
        Chunk("c", num_tokens=0),
        Chunk(" "),
        Chunk("<x"),
        Chunk("", FinishReason.STOP),
    ]
    assert sum(chunk.num_tokens for chunk in chunks) == generation.usage.num_completion_tokens


@in_loop
async def test_a_tool_call_ends_with_its_own_reason() -> None:
    generation = parsed(*CALL)
    chunks = await all_of(generation)
    assert chunks[0].tool_call == ToolCallDelta(0, name="add")
    deltas = [chunk.tool_call for chunk in chunks if chunk.tool_call]
    assert "".join(delta.arguments for delta in deltas) == '{"x": 1}'
    assert chunks[-1].finish_reason is FinishReason.TOOL_CALLS
    assert generation.finish_reason is FinishReason.TOOL_CALLS
    assert sum(chunk.num_tokens for chunk in chunks) == len(CALL) + 1


@in_loop
async def test_other_finish_reasons_stay() -> None:
    for reason in (FinishReason.LENGTH, FinishReason.CANCELLED):
        generation = parsed(CALL, reason=reason)
        assert (await all_of(generation))[-1].finish_reason is reason
        assert generation.finish_reason is reason


@in_loop
async def test_text_that_is_held_back_arrives_at_the_end() -> None:
    chunks = await all_of(parsed("a", "<tool_call>{"))
    assert chunks == [Chunk("a"), Chunk("<tool_call>{", FinishReason.STOP, num_tokens=2)]
