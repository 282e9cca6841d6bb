"""The response formats of the SDK `@cloudflare/ai` 1.0, which reads tensors."""

from __future__ import annotations

from collections.abc import AsyncIterator

from workers_ai_emulator.engine.types import Chunk, FinishReason, Generation
from workers_ai_emulator.tasks.completion import Completion
from workers_ai_emulator.tasks.response_formats.response_format import Json
from workers_ai_emulator.wire.envelope import END_OF_STREAM, event, to_json


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


def embeddings_tensor(result: Json) -> bytes:
    """Returns the body for the result of an embedding model: a tensor with all embeddings."""
    value, shape = result["data"], result["shape"]
    tensor = {"type": "float32", "shape": shape, "name": "embeddings", "value": value}
    return to_json({"result": [tensor]})


def _tensors(text: str) -> Json:
    names = ("name", "generated_text")
    return {"result": [{"type": "str", "shape": [1], "name": n, "value": [text]} for n in names]}
