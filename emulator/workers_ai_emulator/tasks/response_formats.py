"""The forms of an answer: a model's own, a binding's, OpenAI's two. Each is made for one request.

All take the same chunks: JSON is the text of the stream.
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
    """What a client reads."""

    def whole(self, text: str, generation: Generation) -> bytes:
        """The body of an answer that is not streamed."""

    def events(self, chunks: AsyncIterator[Chunk], generation: Generation) -> AsyncIterator[bytes]:
        """The events of a streamed answer; `[DONE]` last. A cancelled stream just ends."""


class NativeFormat:
    """The form of `ai/run`: `response` and `usage`, in an envelope or in padded events."""

    def whole(self, text: str, generation: Generation) -> bytes:
        return success(self.result(text, generation))

    def result(self, text: str, generation: Generation) -> Json:
        """What the envelope is around."""
        return {"response": text, "usage": _usage(generation)}

    async def events(
        self, chunks: AsyncIterator[Chunk], generation: Generation
    ) -> AsyncIterator[bytes]:
        """One event per token, then the usage. The token that ends it has one with no text."""
        padding = Padding(seed=generation.fingerprint)
        async for chunk in chunks:
            if chunk.finish_reason is FinishReason.CANCELLED:
                return
            yield event(padding.pad({"response": chunk.text}))
        yield event({"response": "", "usage": _usage(generation)})
        yield END_OF_STREAM


class BareFormat(NativeFormat):
    """What a Worker's binding reads: the same without an envelope [workerd, ai-api.ts]."""

    def whole(self, text: str, generation: Generation) -> bytes:
        return to_json(self.result(text, generation))


class GzipFormat(BareFormat):
    """What `@cloudflare/ai` 1.1.0 reads: it unpacks every answer, whatever its headers say."""

    def whole(self, text: str, generation: Generation) -> bytes:
        return gzip.compress(super().whole(text, generation))


class TensorFormat:
    """What `@cloudflare/ai` 1.0 reads: a list of tensors, or a list in every event.

    Which one it takes depends on the model, so both are there. With `echo` the text begins with
    that, since for some models the SDK cuts the prompt off; in a stream that is an event.
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
    """A completion as OpenAI's clients read it: no envelope, no padding.

    Key orders of whole answers and of text events were recorded from Llama 3 models. The last event
    has an empty text where the service was seen with none, since clients read one in every event.
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
        """The one choice of a whole answer."""

    @abstractmethod
    def delta(self, text: str) -> Json:
        """The one choice of an event."""

    def whole(self, text: str, generation: Generation) -> bytes:
        choices = [self.choice(text, _finish_reason(generation))]
        return to_json(self._head(self.whole_object, choices) | {"usage": _usage(generation)})

    async def events(
        self, chunks: AsyncIterator[Chunk], generation: Generation
    ) -> AsyncIterator[bytes]:
        """One event per token, then the finish reason with the usage, as recorded.

        With `stream_options.include_usage` the usage comes once more, as OpenAI documents it.
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
    """The form of `chat/completions`."""

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
    """The form of `completions`. [inferred: as OpenAI documents it]"""

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
