"""The formats of responses: Workers AI's own, those for bindings and SDKs, and OpenAI's two.

Each format writes a whole body or a stream of events from the same chunks. An object serves one
request.
"""

from __future__ import annotations

import gzip
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from typing import Any, Protocol

from workers_ai_emulator.engine.types import Chunk, FinishReason, Generation
from workers_ai_emulator.wire.envelope import END_OF_STREAM, Padding, event, success, to_json

Json = dict[str, Any]


class ResponseFormat(Protocol):
    """Writes the body of a response."""

    def whole(self, text: str, generation: Generation) -> bytes:
        """Returns the body of a response that is not streamed. The generation must have ended."""

    def events(self, chunks: AsyncIterator[Chunk], generation: Generation) -> AsyncIterator[bytes]:
        """Yields the events of a streamed response.

        `[DONE]` is the last event, unless the generation is cancelled.
        """


class NativeFormat:
    """The format of `ai/run`: `response` and `usage`, in an envelope or in padded events."""

    def whole(self, text: str, generation: Generation) -> bytes:
        return success(self.result(text, generation))

    def result(self, text: str, generation: Generation) -> Json:
        """Returns the content of the envelope."""
        return {"response": text, "usage": _usage(generation)}

    async def events(
        self, chunks: AsyncIterator[Chunk], generation: Generation
    ) -> AsyncIterator[bytes]:
        """Yields one event per token, then the usage. The end token's event has an empty text."""
        padding = Padding(seed=generation.fingerprint)
        async for chunk in chunks:
            if chunk.finish_reason is FinishReason.CANCELLED:
                return
            yield event(padding.pad({"response": chunk.text}))
        yield event({"response": "", "usage": _usage(generation)})
        yield END_OF_STREAM


class BareFormat(NativeFormat):
    """The format for a Worker's binding: no envelope [workerd, ai-api.ts]."""

    def whole(self, text: str, generation: Generation) -> bytes:
        return to_json(self.result(text, generation))


class GzipFormat(BareFormat):
    """The format for `@cloudflare/ai` 1.1.0: a body in gzip without a header for it, or events."""

    def whole(self, text: str, generation: Generation) -> bytes:
        return gzip.compress(super().whole(text, generation))


class TensorFormat:
    """The format for `@cloudflare/ai` 1.0: a list of tensors, or one list in every event.

    The SDK reads one of two tensors, depending on the model, so both are sent. `echo`, sent before
    the completion, is the prompt for the models for which the SDK removes the prompt.
    """

    def __init__(self, echo: str) -> None:
        self._echo = echo

    def whole(self, text: str, generation: Generation) -> bytes:
        return to_json(_tensors(self._echo + text))

    async def events(
        self, chunks: AsyncIterator[Chunk], generation: Generation
    ) -> AsyncIterator[bytes]:
        if self._echo:
            yield event(_tensors(self._echo))
        async for chunk in chunks:
            if chunk.finish_reason is FinishReason.CANCELLED:
                return
            if chunk.text:
                yield event(_tensors(chunk.text))
        yield END_OF_STREAM


def _tensors(text: str) -> Json:
    names = ("name", "generated_text")
    return {"result": [{"type": "str", "shape": [1], "name": n, "value": [text]} for n in names]}


class OpenAIFormat(ABC):
    """The base of OpenAI's formats: no envelope, no padding.

    The order of keys is that of recorded responses of Llama 3 models. The last event has an empty
    text. The recorded ones have none, but clients expect a text in every event.
    """

    whole_object: str
    event_object: str

    def __init__(self, model: str, *, include_usage: bool) -> None:
        now = time.time()
        self._id, self._created = f"id-{now * 1000:.0f}", int(now)
        self._model = model
        self._include_usage = include_usage

    @abstractmethod
    def choice(self, text: str, finish_reason: str) -> Json:
        """Returns the only choice of a response that is not streamed."""

    @abstractmethod
    def delta(self, text: str) -> Json:
        """Returns the only choice of an event."""

    def whole(self, text: str, generation: Generation) -> bytes:
        choices = [self.choice(text, _finish_reason(generation))]
        return to_json(self._head(self.whole_object, choices) | {"usage": _usage(generation)})

    async def events(
        self, chunks: AsyncIterator[Chunk], generation: Generation
    ) -> AsyncIterator[bytes]:
        """Yields one event per token, then the finish reason with the usage, as recorded.

        With `stream_options.include_usage`, one more event has the usage, as OpenAI documents it.
        """
        async for chunk in chunks:
            if chunk.finish_reason is FinishReason.CANCELLED:
                return
            if chunk.text or chunk.finish_reason is None:
                yield event(
                    {
                        "id": self._id,
                        "created": self._created,
                        "model": self._model,
                        "object": self.event_object,
                        "choices": [self.delta(chunk.text)],
                    }
                )
        usage = {"usage": _usage(generation)}
        last = self.delta("") | {"finish_reason": _finish_reason(generation)}
        yield event(self._head(self.event_object, [last]) | usage)
        if self._include_usage:
            yield event(self._head(self.event_object, []) | usage)
        yield END_OF_STREAM

    def _head(self, kind: str, choices: list[Json]) -> Json:
        return {
            "id": self._id,
            "object": kind,
            "created": self._created,
            "model": self._model,
            "choices": choices,
        }


class ChatCompletionFormat(OpenAIFormat):
    """The format of `chat/completions`."""

    whole_object, event_object = "chat.completion", "chat.completion.chunk"

    def choice(self, text: str, finish_reason: str) -> Json:
        return {
            "index": 0,
            "message": {"role": "assistant", "content": text},
            "logprobs": None,
            "finish_reason": finish_reason,
        }

    def delta(self, text: str) -> Json:
        return {"index": 0, "delta": {"content": text}}


class TextCompletionFormat(OpenAIFormat):
    """The format of `completions`. [inferred: as OpenAI documents it]"""

    whole_object = event_object = "text_completion"

    def choice(self, text: str, finish_reason: str) -> Json:
        return self.delta(text) | {"finish_reason": finish_reason}

    def delta(self, text: str) -> Json:
        return {"index": 0, "text": text, "logprobs": None, "finish_reason": None}


def _finish_reason(generation: Generation) -> str:
    reason = generation.finish_reason
    assert reason is not None  # the chunks have ended
    return reason.value


def _usage(generation: Generation) -> dict[str, int]:
    usage = generation.usage
    return {
        "prompt_tokens": usage.num_prompt_tokens,
        "completion_tokens": usage.num_completion_tokens,
        "total_tokens": usage.num_total_tokens,
    }
