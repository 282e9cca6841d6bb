"""Writes completions in the response formats of Workers AI, of its SDKs and of OpenAI.

Each format can write a whole body or a stream of events. A format object is used for one request.
"""

from __future__ import annotations

import gzip
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from typing import Any, Protocol

from workers_ai_emulator.engine.types import Chunk, FinishReason, Generation
from workers_ai_emulator.tasks.completion import Completion
from workers_ai_emulator.wire.envelope import END_OF_STREAM, Padding, event, success, to_json

Json = dict[str, Any]


class ResponseFormat(Protocol):
    """Writes a completion as the body of a response."""

    def whole(self, completion: Completion, generation: Generation) -> bytes:
        """Returns the body of a response that is not a stream. The generation must have ended."""

    def events(self, chunks: AsyncIterator[Chunk], generation: Generation) -> AsyncIterator[bytes]:
        """Yields the events of a streamed response. The last event is `[DONE]`.

        If the generation is cancelled, the stream ends without `[DONE]`.
        """


class NativeFormat:
    """The format of `ai/run`: the completion as `response`, and the token counts as `usage`.

    A whole body has Cloudflare's envelope (`result`, `success`, `errors`, `messages`). Each event
    with a token has padding: a text of random length in the key `p`.
    """

    def whole(self, completion: Completion, generation: Generation) -> bytes:
        return success(self.result(completion, generation))

    def result(self, completion: Completion, generation: Generation) -> Json:
        """Returns a JSON object with the completion and the token counts."""
        return {"response": completion.text, "usage": _usage(generation)}

    async def events(
        self, chunks: AsyncIterator[Chunk], generation: Generation
    ) -> AsyncIterator[bytes]:
        """Yields one event per token, an event with the token counts, and `[DONE]`.

        The event of the end-of-sequence token has an empty text.
        """
        padding = Padding(seed=generation.fingerprint)
        async for chunk in chunks:
            if chunk.finish_reason is FinishReason.CANCELLED:
                return
            yield event(padding.pad({"response": chunk.text}))
        yield event({"response": "", "usage": _usage(generation)})
        yield END_OF_STREAM


class BareFormat(NativeFormat):
    """The format for `env.AI` of a Worker: as for `ai/run`, but without Cloudflare's envelope.

    A whole body is only the value that `ai/run` puts into the key `result` of the envelope.
    [source: workerd, ai-api.ts]
    """

    def whole(self, completion: Completion, generation: Generation) -> bytes:
        return to_json(self.result(completion, generation))


class GzipFormat(BareFormat):
    """The format for the SDK `@cloudflare/ai` 1.1: a gzipped body, or events without gzip.

    The SDK expects the gzipped body without the header content-encoding.
    """

    def whole(self, completion: Completion, generation: Generation) -> bytes:
        return gzip.compress(super().whole(completion, generation))


class TensorFormat:
    """The format for the SDK `@cloudflare/ai` 1.0: each body or event contains a list of tensors.

    The list has two tensors with the same text and different names. Which of the two tensors the
    SDK reads depends on the model. `echo`: a text that is sent before the completion. It is the
    prompt if the SDK removes the prompt from the model's responses, otherwise empty.
    """

    def __init__(self, echo: str) -> None:
        self._echo = echo

    def whole(self, completion: Completion, generation: Generation) -> bytes:
        return to_json(_tensors(self._echo + completion.text))

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
    """The base class of OpenAI's two formats. They have no Cloudflare envelope and no padding.

    The keys have the order of the service's responses from Llama 3 models. In the event with the
    finish reason, the service omits the field of the text. The emulator sends this field with an
    empty string, because clients expect it.
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
        """Builds the only element of `choices` in a response that is not a stream."""

    @abstractmethod
    def delta(self, text: str) -> Json:
        """Builds the only element of `choices` in an event, with the text of a chunk."""

    def whole(self, completion: Completion, generation: Generation) -> bytes:
        choices = [self.choice(completion.text, _finish_reason(generation))]
        return to_json(self._head(self.whole_object, choices) | {"usage": _usage(generation)})

    async def events(
        self, chunks: AsyncIterator[Chunk], generation: Generation
    ) -> AsyncIterator[bytes]:
        """Yields one event per token, an event with finish reason and token counts, and `[DONE]`.

        If the request sets `stream_options.include_usage`, yields another event with the token
        counts before `[DONE]`. This event has no choices, as OpenAI documents it.
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
    """OpenAI's format for the endpoint `chat/completions`."""

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
    """The format of the endpoint `completions`, as OpenAI documents it.

    We assume that Workers AI uses the same format.
    """

    whole_object = event_object = "text_completion"

    def choice(self, text: str, finish_reason: str) -> Json:
        return self.delta(text) | {"finish_reason": finish_reason}

    def delta(self, text: str) -> Json:
        return {"index": 0, "text": text, "logprobs": None, "finish_reason": None}


def _finish_reason(generation: Generation) -> str:
    reason = generation.finish_reason
    assert reason is not None  # the generation has ended
    return reason.value


def _usage(generation: Generation) -> dict[str, int]:
    usage = generation.usage
    return {
        "prompt_tokens": usage.num_prompt_tokens,
        "completion_tokens": usage.num_completion_tokens,
        "total_tokens": usage.num_total_tokens,
    }
