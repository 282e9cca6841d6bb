"""The response formats of the OpenAI-compatible endpoints, below `ai/v1` and in AI Gateway."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

from workers_ai_emulator.engine.types import Chunk, FinishReason, Generation
from workers_ai_emulator.models.spec import ModelSpec
from workers_ai_emulator.tasks.completion import Completion
from workers_ai_emulator.tasks.response_formats.choices import Choices
from workers_ai_emulator.tasks.response_formats.response_format import Json
from workers_ai_emulator.tasks.response_formats.usage import UsageDetails
from workers_ai_emulator.wire.envelope import (
    END_OF_STREAM,
    EventTemplate,
    event,
    json_text,
    to_json,
)


class OpenAIFormat:
    """A format with the key `choices`. It has no Cloudflare envelope and no padding.

    The keys have the order of the service's responses. `choices`: writes the elements of `choices`.
    `include_usage`: whether the request sets `stream_options.include_usage`.
    """

    def __init__(self, spec: ModelSpec, choices: Choices, *, include_usage: bool) -> None:
        now = time.time()
        self._id, self._created = f"id-{now * 1000:.0f}", int(now)
        self._model = spec.name
        self._usage = UsageDetails.of(spec)
        self._choices = choices
        self._include_usage = include_usage

    def whole(self, completion: Completion, generation: Generation) -> bytes:
        choice = self._choices.whole(completion, generation)
        head = self._head(self._choices.whole_object, [choice])
        return to_json(head | {"usage": self._usage.write(generation.usage)})

    async def events(
        self, chunks: AsyncIterator[Chunk], generation: Generation
    ) -> AsyncIterator[bytes]:
        """Yields an event per piece, an event with finish reason and token counts, and `[DONE]`.

        If the request sets `stream_options.include_usage`, yields another event with the token
        counts before `[DONE]`.
        """
        choices, reason = self._choices, FinishReason.STOP
        piece = self._template(choices.piece)
        if choices.first is not None:
            yield self._template(choices.first).fill()
        async for chunk in chunks:
            if chunk.finish_reason is FinishReason.CANCELLED:
                return
            reason = chunk.finish_reason or reason
            for text in choices.pieces(chunk, generation) or self._empty(chunk):
                yield piece.fill(text)
        if choices.last is not None:
            yield self._template(choices.last).fill(choices.empty, json_text(reason.value))
        for usage_event in self._usage_events(generation, reason.value):
            yield usage_event
        yield END_OF_STREAM

    def _empty(self, chunk: Chunk) -> list[str]:
        """Returns the piece of a chunk that contains nothing; an empty list if it gets no event."""
        is_sent = self._choices.sends_empty and chunk.finish_reason is None
        return [self._choices.empty] if is_sent else []

    def _template(self, choice: Json) -> EventTemplate:
        return EventTemplate(
            {
                "id": self._id,
                "created": self._created,
                "model": self._model,
                "object": self._choices.event_object,
                "choices": [choice],
            }
        )

    def _usage_events(self, generation: Generation, reason: str) -> list[bytes]:
        """Returns the events with the token counts.

        The event for `include_usage` has no choices, as OpenAI documents it. But if the model has
        details of token counts, this event has a choice, as recorded.
        """
        usage, choice = generation.usage, self._choices.beside_usage(reason)
        kind = self._choices.event_object
        first = event(self._head(kind, [choice]) | {"usage": self._choices.counts(usage)})
        if not self._include_usage:
            return [first]
        choices = [choice] if self._usage.has_details else []
        details = {"usage": self._usage.without_neurons(usage)}
        return [first, event(self._head(kind, choices) | details)]

    def _head(self, kind: str, choices: list[Json]) -> Json:
        return {
            "id": self._id,
            "object": kind,
            "created": self._created,
            "model": self._model,
            "choices": choices,
        }
