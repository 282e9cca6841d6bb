"""Defines the interface of all response formats, and what several formats share."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol

from workers_ai_emulator.engine.types import Chunk, FinishReason, Generation
from workers_ai_emulator.tasks.completion import Completion

Json = dict[str, Any]
# Converts the result of `ai/run` to the bytes of a body: with Cloudflare's envelope or without it.
Wrap = Callable[[Json], bytes]


class ResponseFormat(Protocol):
    """Writes a completion as the body of a response. A format object is used for one request."""

    def whole(self, completion: Completion, generation: Generation) -> bytes:
        """Returns the body of a response that is not a stream. The generation must have ended.

        Raises WireError if the format cannot express the completion.
        """

    def events(self, chunks: AsyncIterator[Chunk], generation: Generation) -> AsyncIterator[bytes]:
        """Yields the events of a streamed response. The last event is `[DONE]`.

        If the generation is cancelled, the stream ends without `[DONE]`.
        """


def finish_reason(completion: Completion, generation: Generation) -> str:
    """Returns the finish reason of a generation that has ended, in OpenAI's words."""
    reason = generation.finish_reason
    assert reason is not None  # the generation has ended
    if completion.tool_calls and reason is FinishReason.STOP:
        reason = FinishReason.TOOL_CALLS
    return reason.value


def hex_id(generation: Generation, purpose: str) -> str:
    """Returns an id of 32 hexadecimal digits, for a response or for a part of it.

    The id is derived from the generation's fingerprint, so that equal requests get equal ids.
    `purpose`: a text that differs for all ids in a response.
    """
    text = f"{purpose}\n{generation.fingerprint}"
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def tool_call_id(generation: Generation, index: int) -> str:
    """Returns the id of the tool call number `index`, in the form that vLLM gives it."""
    return f"chatcmpl-tool-{hex_id(generation, f'tool call {index}')}"
