"""The response formats of models that run on SGLang, such as Gemma 4, GLM and Kimi.

The keys are in alphabetical order.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import ClassVar

from workers_ai_emulator.engine.types import (
    Chunk,
    FinishReason,
    Generation,
    ToolCallDelta,
    Usage,
)
from workers_ai_emulator.models.spec import ModelSpec
from workers_ai_emulator.tasks.completion import Completion
from workers_ai_emulator.tasks.response_formats.choices import Choices
from workers_ai_emulator.tasks.response_formats.response_format import (
    Json,
    Wrap,
    finish_reason,
    hex_id,
)
from workers_ai_emulator.tasks.response_formats.usage import EventCounts, UsageDetails, counts
from workers_ai_emulator.wire.envelope import (
    END_OF_STREAM,
    PADDING,
    VALUE,
    EventTemplate,
    RandomPadding,
    event,
    json_text,
)


class SglangChoices(Choices):
    """SGLang's choices on all endpoints.

    [recorded on `ai/run` from Gemma 4 and GLM 5.3, 2026-10; below `ai/v1` from GLM 5.2 and Kimi
    K2.6, 2026-08. No recording below `ai/v1` has tool calls.]

    `matched_stop`, the id of the token that ended the completion, is always null: the emulator does
    not know the ids of the service's tokens.
    """

    first: ClassVar[Json] = {
        "delta": {"content": "", "reasoning_content": None, "role": "assistant"},
        "finish_reason": None,
        "index": 0,
        "logprobs": None,
        "matched_stop": None,
    }
    piece: ClassVar[Json] = first | {"delta": VALUE}
    last: ClassVar[Json] = piece | {"finish_reason": VALUE}
    empty = '{"reasoning_content":null}'

    def whole(self, completion: Completion, generation: Generation) -> Json:
        return {
            "finish_reason": finish_reason(completion, generation),
            "index": 0,
            "logprobs": None,
            "message": self._message(completion, generation),
        }

    def pieces(self, chunk: Chunk, generation: Generation) -> list[str]:
        deltas: list[Json] = []
        if chunk.reasoning:
            deltas.append({"reasoning_content": chunk.reasoning})
        if chunk.text:
            deltas.append({"content": chunk.text, "reasoning_content": None})
        if chunk.tool_call:
            call = _tool_call_part(chunk.tool_call, generation)
            nothing = {"content": None, "reasoning_content": None, "role": None}
            deltas.append(nothing | {"tool_calls": [call]})
        return [json_text(delta) for delta in deltas]

    def counts(self, usage: Usage) -> Json:
        """Returns the token counts in alphabetical order [recorded from GLM 5.2, 2026-07].

        `prompt_tokens_details` is null, as it is in SGLang if no token of the prompt is cached.
        """
        return dict(sorted((counts(usage) | {"prompt_tokens_details": None}).items()))

    def _message(self, completion: Completion, generation: Generation) -> Json:
        calls = _tool_calls(completion, generation)
        message: Json = {"content": (completion.text or None) if calls else completion.text}
        if completion.reasoning:
            message["reasoning_content"] = completion.reasoning
        message["role"] = "assistant"
        return message | ({"tool_calls": calls} if calls else {})


class SglangFormat:
    """The format of `ai/run` for models that run on SGLang. Each event has padding.

    The token counts in an event are those of this event alone. A last event in the native form,
    without `choices`, has those of the completion. `wrap`: writes the body of a
    response that is not a stream.
    """

    def __init__(self, spec: ModelSpec, choices: SglangChoices, wrap: Wrap) -> None:
        self._model = spec.name
        self._usage = UsageDetails.of(spec)
        self._choices = choices
        self._wrap = wrap
        self._created = int(time.time())

    def whole(self, completion: Completion, generation: Generation) -> bytes:
        choice = self._choices.whole(completion, generation)
        content = self._content(generation, [choice], self._choices.whole_object)
        return self._wrap(content | {"usage": self._usage.write(generation.usage)})

    async def events(
        self, chunks: AsyncIterator[Chunk], generation: Generation
    ) -> AsyncIterator[bytes]:
        choices, padding = self._choices, RandomPadding(generation.fingerprint)
        usages = EventCounts(self._usage)
        first, piece, last, end = (
            self._template(generation, choice)
            for choice in ([choices.first], [choices.piece], [choices.last], [])
        )
        yield first.fill(padding.next(), usages.next(generation.usage.num_prompt_tokens, 0))
        num = 0  # the number of tokens that no event has counted yet
        async for chunk in chunks:
            if chunk.finish_reason is FinishReason.CANCELLED:
                return
            num += chunk.num_tokens
            for text in choices.pieces(chunk, generation):
                yield piece.fill(text, padding.next(), usages.next(0, num))
                num = 0
            if chunk.finish_reason is not None:
                reason = json_text(chunk.finish_reason.value)
                yield last.fill(choices.empty, reason, padding.next(), usages.next(0, 0))
        yield end.fill(padding.next(), usages.next(0, num))
        yield event({"response": "", "usage": usages.sum(generation.usage)})
        yield END_OF_STREAM

    def _template(self, generation: Generation, choices: list[Json]) -> EventTemplate:
        content = self._content(generation, choices, self._choices.event_object)
        return EventTemplate(content | {"p": PADDING, "usage": VALUE})

    def _content(self, generation: Generation, choices: list[Json], kind: str) -> Json:
        return {
            "choices": choices,
            "created": self._created,
            "id": hex_id(generation, "response"),
            "model": self._model,
            "object": kind,
        }


def _tool_calls(completion: Completion, generation: Generation) -> list[Json]:
    return [
        {
            "function": {"arguments": call.arguments, "name": call.name},
            "id": call.id or _tool_call_id(generation, index),
            "index": index,
            "type": "function",
        }
        for index, call in enumerate(completion.tool_calls)
    ]


def _tool_call_part(call: ToolCallDelta, generation: Generation) -> Json:
    """Returns a part of a tool call. In all parts but the first one, id and name are null."""
    is_first = call.name is not None
    return {
        "function": {"arguments": call.arguments, "name": call.name},
        "id": (call.id or _tool_call_id(generation, call.index)) if is_first else None,
        "index": call.index,
        "type": "function",
    }


def _tool_call_id(generation: Generation, index: int) -> str:
    """Returns the id of a tool call in the form of SGLang: `call_`, 24 hex digits."""
    return f"call_{hex_id(generation, f'tool call {index}')[:24]}"
