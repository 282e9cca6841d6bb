"""Collects the chunks of a completion: its text, its reasoning and its tool calls."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from workers_ai_emulator.engine.types import Chunk, FinishReason
from workers_ai_emulator.prompts.tools import ToolCall
from workers_ai_emulator.wire.errors import REQUEST_ABORTED, WireError


@dataclass(frozen=True, slots=True)
class Completion:
    """A whole completion. `text` is the answer, without the reasoning and the tool calls.

    `num_reasoning_tokens`: the number of tokens of the reasoning. `chunks`: the chunks that formed
    the completion.
    """

    text: str
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    num_reasoning_tokens: int = 0
    chunks: tuple[Chunk, ...] = field(default=(), compare=False, repr=False)


class Collector:
    """Joins the chunks of a completion."""

    def __init__(self) -> None:
        self._chunks: list[Chunk] = []
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._num_reasoning_tokens = 0
        self._names: dict[int, tuple[str, str | None]] = {}
        self._arguments: dict[int, list[str]] = {}

    def add(self, chunk: Chunk) -> None:
        self._chunks.append(chunk)
        self._text.append(chunk.text)
        if chunk.reasoning:
            self._reasoning.append(chunk.reasoning)
            self._num_reasoning_tokens += chunk.num_tokens
        if delta := chunk.tool_call:
            name, call_id = self._names.get(delta.index, ("", None))
            self._names[delta.index] = (name or delta.name or "", call_id or delta.id)
            self._arguments.setdefault(delta.index, []).append(delta.arguments)

    @property
    def completion(self) -> Completion:
        """The completion that the chunks form. The tool calls are in the order of their numbers."""
        return Completion(
            "".join(self._text),
            "".join(self._reasoning),
            tuple(self.tool_call(index) for index in sorted(self._names)),
            self._num_reasoning_tokens,
            tuple(self._chunks),
        )

    def tool_call(self, index: int) -> ToolCall:
        """Returns the tool call with this number, as far as it has arrived."""
        name, call_id = self._names[index]
        return ToolCall(name, "".join(self._arguments[index]), call_id)


async def collect(chunks: AsyncIterator[Chunk]) -> Completion:
    """Waits for all chunks, and returns the completion that they form.

    Raises WireError if the generation is cancelled.
    """
    collector = Collector()
    async for chunk in chunks:
        if chunk.finish_reason is FinishReason.CANCELLED:
            raise WireError(REQUEST_ABORTED)
        collector.add(chunk)
    return collector.completion
