"""Generations whose text is split into answer, reasoning and tool calls."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

from workers_ai_emulator.engine.types import Chunk, FinishReason, Generation, Usage
from workers_ai_emulator.prompts.output_formats.output_format import Parser


class ParsedGeneration:
    """A Generation that parses the text of another generation.

    Its chunks contain text, reasoning or a part of a tool call. A chunk's `num_tokens` includes the
    tokens whose text the parser has held back. If there are tool calls, the finish reason is
    TOOL_CALLS instead of STOP.
    """

    def __init__(self, generation: Generation, parser: Parser) -> None:
        self._generation = generation
        self._parser = parser
        self._has_calls = False

    @property
    def usage(self) -> Usage:
        return self._generation.usage

    @property
    def finish_reason(self) -> FinishReason | None:
        return self._reason(self._generation.finish_reason)

    @property
    def fingerprint(self) -> str:
        return self._generation.fingerprint

    async def __aiter__(self) -> AsyncIterator[Chunk]:
        num_tokens = 0
        async for chunk in self._generation:
            num_tokens += chunk.num_tokens
            parts = self._parts(chunk)
            if not parts:
                continue
            yield replace(parts[0], num_tokens=num_tokens)
            for part in parts[1:]:
                yield part
            num_tokens = 0

    def cancel(self) -> None:
        self._generation.cancel()

    def cancel_after(self, limit_s: float) -> None:
        self._generation.cancel_after(limit_s)

    def _parts(self, chunk: Chunk) -> list[Chunk]:
        """Splits a chunk into chunks. The last of them gets the finish reason if there is one."""
        parts = self._parser.feed(chunk.text)
        if chunk.finish_reason is not None:
            parts += self._parser.flush()
        self._has_calls |= any(part.tool_call for part in parts)
        merged = _merge(parts)
        if chunk.finish_reason is None:
            return merged
        *others, last = merged or [Chunk(num_tokens=0)]
        return [*others, replace(last, finish_reason=self._reason(chunk.finish_reason))]

    def _reason(self, reason: FinishReason | None) -> FinishReason | None:
        is_call = reason is FinishReason.STOP and self._has_calls
        return FinishReason.TOOL_CALLS if is_call else reason


def _merge(parts: Sequence[Chunk]) -> list[Chunk]:
    """Joins consecutive texts, and consecutive pieces of reasoning."""
    merged: list[Chunk] = []
    for part in parts:
        if merged and _kind(part) != "tool call" and _kind(part) == _kind(merged[-1]):
            last = merged.pop()
            text, reasoning = last.text + part.text, last.reasoning + part.reasoning
            part = replace(last, text=text, reasoning=reasoning)
        merged.append(part)
    return merged


def _kind(part: Chunk) -> str:
    return "tool call" if part.tool_call else "text" if part.text else "reasoning"
