"""The elements of OpenAI's key `choices`, as the inference servers of the service write them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from workers_ai_emulator.engine.types import Chunk, Generation, ToolCallDelta, Usage
from workers_ai_emulator.tasks.completion import Completion
from workers_ai_emulator.tasks.response_formats.json_pieces import number_of
from workers_ai_emulator.tasks.response_formats.response_format import (
    Json,
    finish_reason,
    tool_call_id,
)
from workers_ai_emulator.tasks.response_formats.usage import counts
from workers_ai_emulator.wire.envelope import VALUE, json_text


class Choices(ABC):
    """Writes the only element of `choices`, which contains a completion or a piece of it.

    `whole_object`, `event_object`: the value of the key `object` beside `choices`.
    `first`: the element in the first event of a stream; None if there is no such event.
    `piece`: the element in all other events, with `VALUE` in place of the piece.
    `last`: the element in the event with the finish reason, with `VALUE` in place of the last piece
    and of the finish reason; None if the event with the token counts has the finish reason.
    `empty`: the piece of a chunk that contains nothing, or of an event that needs no piece.
    `sends_empty`: whether a chunk that contains nothing gets an event.
    """

    whole_object: ClassVar = "chat.completion"
    event_object: ClassVar = "chat.completion.chunk"
    first: ClassVar[Json | None] = None
    piece: ClassVar[Json]
    last: ClassVar[Json | None] = None
    empty: ClassVar = "{}"
    sends_empty: ClassVar = False

    @abstractmethod
    def whole(self, completion: Completion, generation: Generation) -> Json:
        """Returns the element of `choices` in a response that is not a stream."""

    @abstractmethod
    def pieces(self, chunk: Chunk, generation: Generation) -> list[str]:
        """Returns the pieces that a chunk adds to the completion, as JSON texts."""

    def counts(self, usage: Usage) -> Json:
        """Returns the token counts in the order of the server."""
        return counts(usage)

    def beside_usage(self, reason: str) -> Json:
        """Returns the element of `choices` in the event with the token counts."""
        return {"index": 0, "delta": {}, "finish_reason": reason}


class LlamaChoices(Choices):
    """The choices of models whose result on `ai/run` has the key `response`, such as Llama 3.

    `has_reasoning`: whether a message always has the key `reasoning`. `has_numbers`: whether a
    piece that is a number is sent as a JSON number [recorded for llama-3.3, 2026-06 and 2026-09].

    In the event with the finish reason, the service sends an empty `delta`. The emulator sends an
    empty `content`, because clients expect it. [recorded]
    """

    piece: ClassVar[Json] = {"index": 0, "delta": VALUE}
    empty = '{"content":""}'
    sends_empty = True

    def __init__(self, *, has_reasoning: bool, has_numbers: bool) -> None:
        self._has_reasoning = has_reasoning
        self._has_numbers = has_numbers

    def whole(self, completion: Completion, generation: Generation) -> Json:
        message: Json = {"role": "assistant", "content": completion.text}
        if completion.tool_calls:
            message["content"] = completion.text or None
            message["tool_calls"] = tool_calls(completion, generation)
        if self._has_reasoning:
            message["reasoning"] = completion.reasoning or None
        if completion.reasoning:
            message["reasoning_content"] = completion.reasoning
        return {
            "index": 0,
            "message": message,
            "logprobs": None,
            "finish_reason": finish_reason(completion, generation),
        }

    def pieces(self, chunk: Chunk, generation: Generation) -> list[str]:
        content = number_of(chunk.text) if self._has_numbers else chunk.text
        return delta(chunk, generation, content)

    def beside_usage(self, reason: str) -> Json:
        return {"index": 0, "delta": {"content": ""}, "finish_reason": reason}


class TextChoices(Choices):
    """The choices of the endpoint `completions`, as OpenAI documents them.

    We assume that Workers AI uses the same format.
    """

    whole_object = event_object = "text_completion"
    piece: ClassVar[Json] = {"index": 0, "text": VALUE, "logprobs": None, "finish_reason": None}
    empty = '""'
    sends_empty = True

    def whole(self, completion: Completion, generation: Generation) -> Json:
        return self._choice(completion.text, finish_reason(completion, generation))

    def pieces(self, chunk: Chunk, generation: Generation) -> list[str]:
        return [json_text(chunk.text)] if chunk.text else []

    def beside_usage(self, reason: str) -> Json:
        return self._choice("", reason)

    def _choice(self, text: str, reason: str) -> Json:
        return {"index": 0, "text": text, "logprobs": None, "finish_reason": reason}


def delta(
    chunk: Chunk, generation: Generation, content: Any = None, *, arguments_first: bool = True
) -> list[str]:
    """Returns a list with the `delta` of a chunk as JSON; an empty list if the chunk is empty.

    `content`: the value of the key `content`; by default, the text. `arguments_first`: whether the
    first part of a tool call has the key `arguments` even if its value is empty.
    """
    keys: Json = {}
    if chunk.reasoning:
        keys["reasoning_content"] = chunk.reasoning
    if chunk.text:
        keys["content"] = chunk.text if content is None else content
    if call := chunk.tool_call:
        part = _tool_call_part(call, generation, arguments_first=arguments_first)
        keys["tool_calls"] = [part]
    return [json_text(keys)] if keys else []


def tool_calls(completion: Completion, generation: Generation) -> list[Json]:
    """Returns the value of the key `tool_calls` in a message, in OpenAI's form."""
    return [
        {
            "id": call.id or tool_call_id(generation, index),
            "type": "function",
            "function": {"name": call.name, "arguments": call.arguments},
        }
        for index, call in enumerate(completion.tool_calls)
    ]


def _tool_call_part(call: ToolCallDelta, generation: Generation, *, arguments_first: bool) -> Json:
    if call.name is None:
        return {"index": call.index, "function": {"arguments": call.arguments}}
    function: Json = {"name": call.name}
    if call.arguments or arguments_first:
        function["arguments"] = call.arguments
    call_id = call.id or tool_call_id(generation, call.index)
    return {"id": call_id, "type": "function", "index": call.index, "function": function}
