"""Collects the chunks of a completion: its text, its reasoning and its tool calls."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from workers_ai_emulator.engine.types import Chunk, FinishReason
from workers_ai_emulator.prompts.tools import ToolCall
from workers_ai_emulator.wire.errors import REQUEST_ABORTED, WireError


@dataclass(frozen=True, slots=True)
class Completion:
    """A whole completion. `text` is the answer, without the reasoning and the tool calls."""

    text: str
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()


async def collect(chunks: AsyncIterator[Chunk]) -> Completion:
    """Waits for all chunks, and returns the completion that they form.

    Raises WireError if the generation is cancelled.
    """
    text = reasoning = ""
    calls: dict[int, ToolCall] = {}
    async for chunk in chunks:
        if chunk.finish_reason is FinishReason.CANCELLED:
            raise WireError(REQUEST_ABORTED)
        text += chunk.text
        reasoning += chunk.reasoning
        if delta := chunk.tool_call:
            before = calls.get(delta.index, ToolCall(name="", arguments=""))
            calls[delta.index] = ToolCall(
                name=before.name or delta.name or "",
                arguments=before.arguments + delta.arguments,
                id=before.id or delta.id,
            )
    return Completion(text, reasoning, tuple(calls[index] for index in sorted(calls)))
