"""The response formats of models that run on vLLM, such as Qwen3 and gpt-oss."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import ClassVar

from workers_ai_emulator.engine.types import Chunk, FinishReason, Generation, Usage
from workers_ai_emulator.models.spec import ModelSpec
from workers_ai_emulator.tasks.completion import Completion
from workers_ai_emulator.tasks.response_formats.choices import Choices, delta, tool_calls
from workers_ai_emulator.tasks.response_formats.response_format import (
    Json,
    Wrap,
    finish_reason,
    hex_id,
)
from workers_ai_emulator.tasks.response_formats.usage import vllm_counts
from workers_ai_emulator.wire.envelope import END_OF_STREAM, VALUE, EventTemplate, event, json_text


class VllmChoices(Choices):
    """vLLM's choices for chat completions on `ai/run` [recorded from Qwen3].

    `arguments_first`: whether the first part of a tool call in a stream has the key `arguments`.
    `reasoning_keys`: the keys of the reasoning in a whole response.
    `after_usage`: the last keys of a body that is not a stream.
    """

    arguments_first: ClassVar = False
    reasoning_keys: tuple[str, ...] = ("reasoning_content",)
    after_usage: ClassVar[Json] = {"prompt_logprobs": None}
    empty = '{"content":""}'
    first: ClassVar[Json] = {
        "index": 0,
        "delta": {"role": "assistant", "content": ""},
        "logprobs": None,
        "finish_reason": None,
    }
    piece: ClassVar[Json] = {
        "index": 0,
        "delta": VALUE,
        "logprobs": None,
        "finish_reason": None,
        "token_ids": None,
    }
    last: ClassVar[Json] = {
        "index": 0,
        "delta": VALUE,
        "logprobs": None,
        "finish_reason": VALUE,
        "stop_reason": None,
        "token_ids": None,
    }

    def whole(self, completion: Completion, generation: Generation) -> Json:
        """Returns the choice with its message [recorded from Qwen3, 2026-03].

        A completion that consists of reasoning has null as `content` [recorded from Nemotron 3,
        2026-08; measured for gpt-oss, 2026-09].
        """
        calls = tool_calls(completion, generation)
        message: Json = {
            "role": "assistant",
            "content": completion.text or (None if calls or completion.reasoning else ""),
            "refusal": None,
            "annotations": None,
            "audio": None,
            "function_call": None,
            "tool_calls": calls,
        }
        message |= dict.fromkeys(self.reasoning_keys, completion.reasoning or None)
        return {
            "index": 0,
            "message": message,
            "logprobs": None,
            "finish_reason": finish_reason(completion, generation),
            "stop_reason": None,
        }

    def pieces(self, chunk: Chunk, generation: Generation) -> list[str]:
        return delta(chunk, generation, arguments_first=self.arguments_first)

    def counts(self, usage: Usage) -> Json:
        return vllm_counts(usage)


class VllmGatewayChoices(VllmChoices):
    """vLLM's choices below `ai/v1` and in AI Gateway.

    [recorded: streams from gpt-oss, 2026-05; whole completions from Nemotron 3, 2026-08]
    """

    arguments_first = True
    empty = "{}"

    def __init__(self, spec: ModelSpec) -> None:
        self.reasoning_keys = spec.traits.reasoning_keys

    def whole(self, completion: Completion, generation: Generation) -> Json:
        return super().whole(completion, generation) | {"token_ids": None}


class VllmTextChoices(Choices):
    """vLLM's choices for a request with a prompt [documented in the types of workerd]."""

    whole_object = event_object = "text_completion"
    after_usage: ClassVar[Json] = {}
    piece: ClassVar[Json] = {
        "index": 0,
        "text": VALUE,
        "finish_reason": None,
        "stop_reason": None,
        "logprobs": None,
        "prompt_logprobs": None,
    }
    last: ClassVar[Json] = piece | {"finish_reason": VALUE}
    empty = '""'

    def whole(self, completion: Completion, generation: Generation) -> Json:
        reason = finish_reason(completion, generation)
        return self.piece | {"text": completion.text, "finish_reason": reason}

    def pieces(self, chunk: Chunk, generation: Generation) -> list[str]:
        return [json_text(chunk.text)] if chunk.text else []


class VllmFormat:
    """The format of `ai/run` for models that run on vLLM. Streams have no padding.

    The token counts in each event are the sums up to this event. `wrap`: writes the body of a
    response that is not a stream. [recorded from Qwen3, 2026-03 and 2026-04]
    """

    def __init__(self, spec: ModelSpec, choices: VllmChoices | VllmTextChoices, wrap: Wrap) -> None:
        self._model = spec.name
        self._choices = choices
        self._wrap = wrap
        self._created = int(time.time())

    def whole(self, completion: Completion, generation: Generation) -> bytes:
        choice = self._choices.whole(completion, generation)
        head = self._head(generation, self._choices.whole_object)
        usage = vllm_counts(generation.usage)
        return self._wrap(head | {"choices": [choice], "usage": usage} | self._choices.after_usage)

    async def events(
        self, chunks: AsyncIterator[Chunk], generation: Generation
    ) -> AsyncIterator[bytes]:
        """Yields an event per piece, one with the finish reason, one with the token counts."""
        choices, usage = self._choices, Usage(generation.usage.num_prompt_tokens, 0)
        piece, last = (self._template(generation, [c]) for c in (choices.piece, choices.last))
        if choices.first is not None:
            yield self._first_event(generation, choices.first)
        async for chunk in chunks:
            if chunk.finish_reason is FinishReason.CANCELLED:
                return
            usage = Usage(usage.num_prompt_tokens, usage.num_completion_tokens + chunk.num_tokens)
            pieces = choices.pieces(chunk, generation)
            if chunk.finish_reason is not None:
                text, reason = (pieces or [choices.empty])[0], json_text(chunk.finish_reason.value)
                yield last.fill(text, reason, _counts(usage))
            elif pieces:
                yield piece.fill(pieces[0], _counts(usage))
        yield self._template(generation, []).fill(_counts(generation.usage))
        yield END_OF_STREAM

    def _first_event(self, generation: Generation, choice: Json) -> bytes:
        usage = vllm_counts(Usage(generation.usage.num_prompt_tokens, 0))
        head = self._head(generation, self._choices.event_object)
        return event(head | {"choices": [choice], "usage": usage, "prompt_token_ids": None})

    def _template(self, generation: Generation, choices: list[Json]) -> EventTemplate:
        head = self._head(generation, self._choices.event_object)
        return EventTemplate(head | {"choices": choices, "usage": VALUE})

    def _head(self, generation: Generation, kind: str) -> Json:
        prefix = "chatcmpl" if kind.startswith("chat") else "cmpl"
        return {
            "id": f"{prefix}-{hex_id(generation, 'response')}",
            "object": kind,
            "created": self._created,
            "model": self._model,
        }


def _counts(usage: Usage) -> str:
    return json_text(vllm_counts(usage))
