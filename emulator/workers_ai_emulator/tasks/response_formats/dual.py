"""The response format of Llama 3.3 and Llama 4 on `ai/run`, which has two forms of the completion.

The two forms are OpenAI's key `choices`, as vLLM writes it, and Workers AI's own keys `response`
and `tool_calls`. All keys are in alphabetical order.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

from workers_ai_emulator.engine.types import Chunk, FinishReason, Generation, ToolCallDelta
from workers_ai_emulator.models.spec import ModelSpec
from workers_ai_emulator.prompts.tools import ToolCall
from workers_ai_emulator.tasks.completion import Completion
from workers_ai_emulator.tasks.response_formats.json_pieces import value_of
from workers_ai_emulator.tasks.response_formats.native import (
    arguments_value,
    json_value,
    whole_calls,
)
from workers_ai_emulator.tasks.response_formats.response_format import (
    Json,
    Wrap,
    finish_reason,
    hex_id,
)
from workers_ai_emulator.tasks.response_formats.usage import EventCounts, UsageDetails
from workers_ai_emulator.tasks.text_generation import TextGenerationRequest
from workers_ai_emulator.wire.envelope import (
    END_OF_STREAM,
    PADDING,
    VALUE,
    EventTemplate,
    RandomPadding,
    event,
    json_text,
)

# The models that run under the name of a model, for requests without and with tools or JSON mode
# [recorded: the first name since 2026-08, the second one for tools 2026-08 and 2026-10, and for
# JSON mode 2026-09].
_RUNNING_MODELS = {
    "@cf/meta/llama-3.3-70b-instruct-fp8-fast": (
        "@cf/meta/llama-3.3-70b-instruct-sd",
        "@cf/meta/llama-3.3-70b-json",
    )
}
# The id of Llama 3.3's token that ends a turn with tool calls.
_END_OF_CALLS = 128008
_NULLS_OF_FIRST: Json = {"prompt_text": None, "prompt_token_ids": None}
_NULLS_OF_WHOLE: Json = _NULLS_OF_FIRST | dict.fromkeys(
    ("ec_transfer_params", "kv_transfer_params", "metrics", "prompt_logprobs", "service_tier")
)
_NULLS_OF_MESSAGE: Json = dict.fromkeys(("annotations", "audio", "function_call", "refusal"))
_FIRST_CHOICE: Json = {
    "delta": {"content": "", "role": "assistant"},
    "finish_reason": None,
    "index": 0,
    "logprobs": None,
}
_CHOICE: Json = {
    "delta": VALUE,
    "finish_reason": None,
    "index": 0,
    "logprobs": None,
    "token_ids": None,
}


class DualFormat:
    """The format of `ai/run` with both forms. Each event has padding.

    A text or a part of arguments that is a JSON number, object or list becomes this value in the
    key `response` or `tool_calls`, if the JSON mode of the model sends objects. [recorded from
    Llama 3.3: streams 2026-10, whole results with tools 2026-08, numbers 2026-09 and 2026-10; a
    whole result of Llama 4 2026-09. Llama 4's streams are inferred from reports of doubled texts,
    2026-08 and 2026-09.]

    `request`: decides which model runs, and whether `response` must be JSON. `wrap`: writes the
    body of a response that is not a stream. `calls_tools`: whether the model has tools. `usage`:
    writes the token counts.
    """

    def __init__(self, spec: ModelSpec, request: TextGenerationRequest, wrap: Wrap) -> None:
        names = _RUNNING_MODELS.get(spec.name, (spec.name, spec.name))
        self._model = names[bool(request.tools) or request.json_mode is not None]
        self._end_of_calls = _END_OF_CALLS if spec.name in _RUNNING_MODELS else None
        self._has_values = spec.traits.parses_texts
        self._is_json = self._has_values and request.json_mode is not None
        self.calls_tools = spec.traits.has_tools
        self.usage = UsageDetails.of(spec)
        self._wrap = wrap
        self._created = int(time.time())

    def whole(self, completion: Completion, generation: Generation) -> bytes:
        """Returns the body. Raises WireError if `response` must be JSON and is not."""
        calls = whole_calls(completion, generation) if self.calls_tools else []
        reason = finish_reason(completion, generation)
        choice = {
            "finish_reason": reason,
            "index": 0,
            "logprobs": None,
            "message": _message(completion, calls, generation),
            "routed_experts": None,
            "stop_reason": self._stop_reason(reason),
            "token_ids": None,
        }
        native = [{"arguments": arguments_value(call), "name": call.name} for call in calls]
        others = _NULLS_OF_WHOLE | {"usage": self.usage.write(generation.usage)}
        others["response"] = self._response(completion.text, has_calls=bool(calls))
        return self._wrap(self._content(generation, [choice], native, "chat.completion", others))

    async def events(
        self, chunks: AsyncIterator[Chunk], generation: Generation
    ) -> AsyncIterator[bytes]:
        """Yields an event per piece of text or of a tool call; the last one has the finish reason.

        Each event has its own token counts. Two events follow: one without `choices`, and one with
        the token counts of the completion.
        """
        stream = _Stream(self, generation)
        yield stream.first()
        async for chunk in chunks:
            if chunk.finish_reason is FinishReason.CANCELLED:
                return
            for sent in stream.add(chunk):
                yield sent
        yield stream.end()
        yield event({"response": "", "usage": stream.counts.sum(generation.usage)})
        yield END_OF_STREAM

    def value(self, text: str) -> Any:
        """Returns the JSON number, object or list that the text is; otherwise the text."""
        return value_of(text) if self._has_values else text

    def template(
        self, generation: Generation, choices: list[Json], calls: Any, **others: Any
    ) -> EventTemplate:
        """Returns the template of an event. `calls`: the value of the native key `tool_calls`."""
        others |= {"p": PADDING, "usage": VALUE}
        kind = "chat.completion.chunk"
        return EventTemplate(self._content(generation, choices, calls, kind, others))

    def last_choice(self, reason: FinishReason) -> Json:
        """Returns the choice of the event with the finish reason."""
        choice = _CHOICE | {"finish_reason": reason.value}
        return dict(sorted((choice | {"stop_reason": self._stop_reason(reason.value)}).items()))

    def _content(
        self, generation: Generation, choices: list[Json], calls: Any, kind: str, others: Json
    ) -> Json:
        content = others | {
            "choices": choices,
            "created": self._created,
            "id": f"chatcmpl-{uuid.UUID(hex_id(generation, 'response'))}",
            "model": self._model,
            "object": kind,
            "tool_calls": calls,
        }
        return dict(sorted(content.items()))

    def _response(self, text: str, *, has_calls: bool) -> Any:
        if has_calls:
            return text or None
        return json_value(text) if self._is_json else self.value(text)

    def _stop_reason(self, reason: str) -> int | None:
        return self._end_of_calls if reason == FinishReason.TOOL_CALLS.value else None


class _Stream:
    """Writes the events of one stream. `counts`: the token counts of the events so far."""

    def __init__(self, form: DualFormat, generation: Generation) -> None:
        self._form = form
        self._generation = generation
        self._padding = RandomPadding(generation.fingerprint)
        self.counts = EventCounts(form.usage)
        self._num_tokens = 0  # the number of tokens that no event has counted yet
        self._text = form.template(generation, [_CHOICE], [], response=VALUE)
        self._call: EventTemplate | None = None
        # For each tool call, the beginning of its arguments that no event has sent yet; None if an
        # event has sent arguments.
        self._held: dict[int, str | None] = {}

    def first(self) -> bytes:
        """Returns the event with the role, and with the number of prompt tokens."""
        template = self._form.template(
            self._generation, [_FIRST_CHOICE], [], response="", **_NULLS_OF_FIRST
        )
        counts = self.counts.next(self._generation.usage.num_prompt_tokens, 0)
        return template.fill(self._padding.next(), counts)

    def add(self, chunk: Chunk) -> list[bytes]:
        """Returns the events of a chunk. A chunk without content has none, except the last one."""
        self._num_tokens += chunk.num_tokens
        pieces = self._pieces(chunk)
        if chunk.finish_reason is None:
            return [self._event(piece) for piece in pieces]
        *others, last = pieces or [self._closing_piece()]
        return [*map(self._event, others), self._last_event(last, chunk.finish_reason)]

    def end(self) -> bytes:
        """Returns the event without choices."""
        template = self._form.template(self._generation, [], [])
        return template.fill(self._padding.next(), self._counts())

    def _pieces(self, chunk: Chunk) -> list[_Piece]:
        pieces = [self._text_piece(chunk.text)] if chunk.text else []
        if chunk.tool_call and self._form.calls_tools:
            pieces += self._call_pieces(chunk.tool_call)
        return pieces

    def _text_piece(self, text: str) -> _Piece:
        written, value = json_text(text), self._form.value(text)
        return _Piece(f'{{"content":{written}}}', written if value is text else json_text(value))

    def _call_pieces(self, part: ToolCallDelta) -> list[_Piece]:
        """Returns the pieces of a part of a call: its name, and its arguments.

        The braces of empty arguments are not sent. Arguments begin with more than a brace.
        """
        pieces = []
        if part.name is not None:
            self._held[part.index] = ""
            pieces.append(_name_piece(part, self._generation))
        held = self._held.get(part.index)
        arguments = (held or "") + part.arguments
        if held is not None and arguments.strip() in ("", "{", "{}"):
            self._held[part.index] = arguments
        elif arguments:
            self._held[part.index] = None
            pieces.append(self._arguments_piece(part.index, arguments))
        return pieces

    def _arguments_piece(self, index: int, arguments: str) -> _Piece:
        delta = {"tool_calls": [{"function": {"arguments": arguments}, "index": index}]}
        calls = [{"arguments": self._form.value(arguments)}]
        return _Piece(json_text(delta), json_text(calls), is_call=True)

    def _closing_piece(self) -> _Piece:
        """Returns the piece of a last chunk that has no content."""
        if not self._held:
            return self._text_piece("")
        index, held = [*self._held.items()][-1]
        if held is not None and held.strip() != "{":
            return _Piece("{}", "[]", is_call=True)  # a call without arguments
        return self._arguments_piece(index, held or "")

    def _event(self, piece: _Piece) -> bytes:
        template = self._text
        if piece.is_call:
            if self._call is None:
                self._call = self._form.template(self._generation, [_CHOICE], VALUE)
            template = self._call
        return self._fill(template, piece)

    def _last_event(self, piece: _Piece, reason: FinishReason) -> bytes:
        if self._held and reason is FinishReason.STOP:
            reason = FinishReason.TOOL_CALLS
        choice = self._form.last_choice(reason)
        calls, response = (VALUE, {}) if piece.is_call else ([], {"response": VALUE})
        template = self._form.template(self._generation, [choice], calls, **response)
        return self._fill(template, piece)

    def _fill(self, template: EventTemplate, piece: _Piece) -> bytes:
        return template.fill(piece.delta, self._padding.next(), piece.native, self._counts())

    def _counts(self) -> str:
        num_tokens, self._num_tokens = self._num_tokens, 0
        return self.counts.next(0, num_tokens)


class _Piece:
    """The contents of an event, as JSON texts.

    `delta`: the value of the key `delta`. `native`: the value of the key `response`, or if
    `is_call`, that of the key `tool_calls`.
    """

    __slots__ = ("delta", "is_call", "native")

    def __init__(self, delta: str, native: str, *, is_call: bool = False) -> None:
        self.delta = delta
        self.native = native
        self.is_call = is_call


def _message(completion: Completion, calls: list[ToolCall], generation: Generation) -> Json:
    message = _NULLS_OF_MESSAGE | {
        "content": (completion.text or None) if calls else completion.text,
        "reasoning": completion.reasoning or None,
        "role": "assistant",
    }
    if calls:
        message["tool_calls"] = [
            {
                "function": {"arguments": call.arguments, "name": call.name},
                "id": call.id or _tool_call_id(generation, index),
                "type": "function",
            }
            for index, call in enumerate(calls)
        ]
    return dict(sorted(message.items()))


def _name_piece(part: ToolCallDelta, generation: Generation) -> _Piece:
    call = {
        "function": {"name": part.name},
        "id": part.id or _tool_call_id(generation, part.index),
        "index": part.index,
        "type": "function",
    }
    calls = json_text([{"name": part.name}])
    return _Piece(json_text({"tool_calls": [call]}), calls, is_call=True)


def _tool_call_id(generation: Generation, index: int) -> str:
    """Returns the id of a tool call, with 16 hexadecimal digits [recorded]."""
    return f"chatcmpl-tool-{hex_id(generation, f'tool call {index}')[:16]}"
