"""Separates the model's reasoning, between two tags, from its answer."""

from __future__ import annotations

from workers_ai_emulator.engine.types import Chunk
from workers_ai_emulator.prompts.output_formats.markers import split_at
from workers_ai_emulator.prompts.output_formats.output_format import Parser, Stage, ThinkingTags


class TextParser:
    """Returns the whole completion as text."""

    def feed(self, text: str) -> list[Chunk]:
        return [Chunk(text, num_tokens=0)] if text else []

    def flush(self) -> list[Chunk]:
        return []


class ThinkingParser:
    """Separates reasoning at the beginning of a completion, and passes the rest to a parser.

    `stage`: where the completion begins. White space before the first tag is dropped.
    """

    def __init__(self, tags: ThinkingTags, stage: Stage, answer: Parser) -> None:
        self._tags = tags
        self._stage: Stage = stage
        self._answer = answer
        self._held = ""

    def feed(self, text: str) -> list[Chunk]:
        if self._stage == "after":
            return self._answer.feed(text)
        self._held += text
        return self._before() if self._stage == "before" else self._inside()

    def flush(self) -> list[Chunk]:
        held, self._held = self._held, ""
        if self._stage == "inside":
            return [Chunk(reasoning=held, num_tokens=0)] if held else []
        return [*self._answer.feed(held), *self._answer.flush()]

    def _before(self) -> list[Chunk]:
        text = self._held.lstrip()
        if text.startswith(self._tags.start):
            self._stage, self._held = "inside", text[len(self._tags.start) :]
            return self._inside()
        if self._tags.start.startswith(text):
            return []
        return self._end_reasoning(self._held)

    def _inside(self) -> list[Chunk]:
        reasoning, is_found, rest = split_at(self._held, self._tags.end)
        chunks = [Chunk(reasoning=reasoning, num_tokens=0)] if reasoning else []
        if is_found:
            return chunks + self._end_reasoning(rest)
        self._held = rest
        return chunks

    def _end_reasoning(self, rest: str) -> list[Chunk]:
        self._stage, self._held = "after", ""
        return self._answer.feed(rest)
