"""Workers AI's own response format: the completion is a text in the key `response`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from workers_ai_emulator.engine.types import Chunk, FinishReason, Generation
from workers_ai_emulator.json_values import is_too_deep, parse_json
from workers_ai_emulator.models.spec import ModelSpec
from workers_ai_emulator.prompts.tools import ToolCall
from workers_ai_emulator.tasks.completion import Collector, Completion
from workers_ai_emulator.tasks.response_formats.response_format import (
    Json,
    Wrap,
    finish_reason,
    tool_call_id,
)
from workers_ai_emulator.tasks.response_formats.usage import UsageDetails
from workers_ai_emulator.wire.envelope import (
    END_OF_STREAM,
    PADDING,
    VALUE,
    EventTemplate,
    Padding,
    event,
    json_text,
)
from workers_ai_emulator.wire.errors import JSON_MODE_UNMET, WireError


class NativeFormat:
    """The format of `ai/run`: the completion as `response`, and the token counts as `usage`.

    Each event with a token has padding: a text of random length in the key `p`. `wrap`: writes the
    body of a response that is not a stream. `is_json`: whether `response` must be a JSON value
    instead of a text.
    """

    def __init__(self, spec: ModelSpec, wrap: Wrap, *, is_json: bool = False) -> None:
        self._wrap = wrap
        self._usage = UsageDetails.of(spec)
        self._is_json = is_json

    def whole(self, completion: Completion, generation: Generation) -> bytes:
        """Returns the body. Raises WireError if `response` must be JSON and is not."""
        result = self._result(completion, generation)
        return self._wrap(result | {"usage": self._usage.write(generation.usage)})

    async def events(
        self, chunks: AsyncIterator[Chunk], generation: Generation
    ) -> AsyncIterator[bytes]:
        """Yields one event per token, an event with the token counts, and `[DONE]`.

        The event of the end-of-sequence token has an empty text.
        """
        padding, template = Padding(generation.fingerprint), EventTemplate(_TEXT_EVENT)
        async for chunk in chunks:
            if chunk.finish_reason is FinishReason.CANCELLED:
                return
            yield template.fill(json_text(chunk.text), padding.next())
        yield self._last_event(generation)
        yield END_OF_STREAM

    def _result(self, completion: Completion, generation: Generation) -> Json:
        """Returns the result without the token counts and without tool calls."""
        return {"response": json_value(completion.text) if self._is_json else completion.text}

    def _last_event(self, generation: Generation) -> bytes:
        return event({"response": "", "usage": self._usage.write(generation.usage)})


class NativeToolFormat(NativeFormat):
    """The format of `ai/run` for models with tools.

    [recorded 2025; the events of tool calls are those in the tests of Cloudflare's AI SDK provider]
    """

    async def events(
        self, chunks: AsyncIterator[Chunk], generation: Generation
    ) -> AsyncIterator[bytes]:
        """Yields an event for each piece of text, one for each tool call, and the token counts.

        The first event has an empty text. The events of the tool calls are sent when the completion
        ends, because an upstream server may send the parts of several calls alternately. The event
        before the token counts has the finish reason if the model called tools, otherwise only an
        empty list of tool calls. A call that `max_tokens` has cut is left out, but the finish
        reason `length` is sent [inferred].
        """
        padding = Padding(generation.fingerprint, has_tools=True)
        template, collector = EventTemplate(_TEXT_EVENT_WITH_TOOLS), Collector()
        yield template.fill('""', padding.next())
        async for chunk in chunks:
            if chunk.finish_reason is FinishReason.CANCELLED:
                return
            collector.add(chunk)
            if chunk.text or chunk.finish_reason is not None:
                yield template.fill(json_text(chunk.text), padding.next())
        completion = collector.completion
        for index, call in enumerate(whole_calls(completion, generation)):
            yield _call_event(call, index, generation).fill(padding.next())
        reason = {"finish_reason": finish_reason(completion, generation)}
        end: Json = reason if completion.tool_calls else {"tool_calls": []}
        yield EventTemplate(end | {"p": PADDING}).fill(padding.next())
        yield self._last_event(generation)
        yield END_OF_STREAM

    def _result(self, completion: Completion, generation: Generation) -> Json:
        """Returns the result without the token counts.

        If the model calls tools, the arguments are an object, the calls have no ids, and `response`
        is null if there is no text. Otherwise, there is no key `tool_calls`. [recorded 2026-01 and
        2026-04]
        """
        calls = [
            {"name": call.name, "arguments": arguments_value(call)}
            for call in whole_calls(completion, generation)
        ]
        if not calls:
            return super()._result(completion, generation)
        return {"response": completion.text or None, "tool_calls": calls}


_TEXT_EVENT = {"response": VALUE, "p": PADDING}
_TEXT_EVENT_WITH_TOOLS = {"response": VALUE, "tool_calls": [], "p": PADDING}


def whole_calls(completion: Completion, generation: Generation) -> list[ToolCall]:
    """Returns the tool calls of a generation that has ended, without those that were cut.

    A call is cut if `max_tokens` ended the completion and the call's arguments are not JSON.
    """
    is_cut = generation.finish_reason is FinishReason.LENGTH
    return [call for call in completion.tool_calls if not is_cut or _is_json(call.arguments)]


def _call_event(call: ToolCall, index: int, generation: Generation) -> EventTemplate:
    """Returns the event of a whole tool call, which is the call number `index`."""
    entry = {
        "id": call.id or tool_call_id(generation, index),
        "type": "function",
        "index": index,
        "function": {"name": call.name, "arguments": call.arguments},
    }
    return EventTemplate({"tool_calls": [entry], "p": PADDING})


def arguments_value(call: ToolCall) -> Any:
    """Returns a call's arguments as a JSON value. Arguments that are not JSON stay a text."""
    try:
        return parsed(call.arguments or "{}")
    except (ValueError, RecursionError):
        return call.arguments


def _is_json(text: str) -> bool:
    try:
        parsed(text)
    except (ValueError, RecursionError):
        return False
    return True


def json_value(text: str) -> Any:
    """Returns the JSON value of a completion. Raises WireError if it is not JSON."""
    try:
        return parsed(text)
    except (ValueError, RecursionError) as error:
        raise WireError(JSON_MODE_UNMET) from error


def parsed(text: str) -> Any:
    """Returns the value of a JSON text.

    Raises ValueError if the text is not JSON, or if the value is nested too deeply. Raises
    RecursionError if it is nested deeper than Python's parser can read.
    """
    value = parse_json(text)
    if is_too_deep(value):
        raise ValueError("the JSON value is nested too deeply")
    return value
