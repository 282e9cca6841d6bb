"""Finds the completion in the body of a response: its text and its tool calls.

Supports all formats in `tasks/response_formats/`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from workers_ai_emulator.wire.envelope import to_json


def completion_text(body: str, *, is_stream: bool) -> str | None:
    """Returns the text of the completion in a response's body, and a line for each tool call.

    The line has the name of the tool and the JSON of its arguments. Returns None if the body of a
    response that is not a stream contains no completion. In JSON mode, the text is JSON.
    """
    if not is_stream:
        parts = [*_parts(_parsed(body))]
        return _joined(parts) if parts else None
    events = (_parsed(line.removeprefix("data: ")) for line in body.splitlines())
    return _joined([part for event in events for part in _parts(event)])


class _Name(str):
    """The name of a tool and a space, with which the line of a tool call begins."""


def _joined(parts: Iterable[str]) -> str:
    text = ""
    for part in parts:
        is_next_line = isinstance(part, _Name) and text
        text += f"\n{part}" if is_next_line else part
    return text


def _parsed(text: str) -> Any:
    """Returns the JSON value of the text, or None if the text is not JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _parts(value: Any) -> Iterator[str]:
    """Yields the texts, names of tools and arguments in the JSON of a response or an event."""
    match value:
        case {"result": dict(result), "success": True}:
            yield from _parts(result)
        case {"choices": [{"message": dict(message)} | {"delta": dict(message)}, *_]}:
            yield from _message_parts(message)
        case {"choices": [{"text": str(text)}, *_]} | {"result": [{"value": [str(text)]}, *_]}:
            yield text
        case {"object": "response", "output": [*items]}:
            for item in items:
                yield from _item_parts(item)
        case {"type": str()}:
            yield from _responses_event_parts(value)
        case {"response": _} | {"tool_calls": _}:
            yield from _native_parts(value)


def _native_parts(result: dict[str, Any]) -> Iterator[str]:
    """Yields the parts of Workers AI's own format. In JSON mode, `response` is a JSON value."""
    match result.get("response"):
        case str(text):
            yield text
        case value if value is not None:
            yield to_json(value).decode()
    yield from _call_parts(result.get("tool_calls"))


def _message_parts(message: dict[str, Any]) -> Iterator[str]:
    if isinstance(text := message.get("content"), str):
        yield text
    yield from _call_parts(message.get("tool_calls"))


def _call_parts(calls: Any) -> Iterator[str]:
    """Yields the names and arguments of tool calls, in OpenAI's form or in that of Workers AI.

    In a stream, only the first part of a call has the name.
    """
    for call in calls if isinstance(calls, list) else ():
        function = call.get("function", call) if isinstance(call, dict) else None
        match function:
            case {"name": str(name), **others}:
                yield _Name(f"{name} ")
                yield _text(others.get("arguments"))
            case {"arguments": arguments}:
                yield _text(arguments)


def _text(arguments: Any) -> str:
    """Returns the arguments of a tool call, which Workers AI's own format has as an object."""
    if arguments is None or isinstance(arguments, str):
        return arguments or ""
    return to_json(arguments).decode()


def _item_parts(item: Any) -> Iterator[str]:
    """Yields the parts of an item in a response or an event of the Responses API."""
    match item:
        case {"type": "message", "content": [*parts]}:
            for part in parts:
                if isinstance(part, dict) and isinstance(text := part.get("text"), str):
                    yield text
        case {"type": "function_call"}:
            yield from _call_parts([item])


def _responses_event_parts(event: dict[str, Any]) -> Iterator[str]:
    """Yields the parts of an event of the Responses API."""
    match event:
        case {"type": "response.output_item.added", "item": item}:
            yield from _item_parts(item)
        case {
            "type": "response.output_text.delta" | "response.function_call_arguments.delta",
            "delta": str(text),
        }:
            yield text
