"""Finds the completion in the body of a response: its text, its reasoning and its tool calls.

Supports all formats in `tasks/response_formats/`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from workers_ai_emulator.json_values import json_or_none
from workers_ai_emulator.wire.envelope import to_json

_PREFIX = "data: "  # of the line with an event's JSON


@dataclass(frozen=True, slots=True)
class _Part:
    """A part of a completion: a piece of text or reasoning, or the name or arguments of a call."""

    kind: Literal["text", "reasoning", "name", "arguments"]
    text: str


@dataclass(frozen=True, slots=True)
class SentCompletion:
    """The completion in the body of a response, which may be incomplete.

    `num_events`: the number of events that contain a part of the completion, which may be empty; 0
    if the response is not a stream.
    """

    parts: Sequence[_Part]
    num_events: int = 0

    @property
    def text(self) -> str:
        """The text, and a line for each tool call: the name of the tool and the arguments."""
        text = ""
        for part in self.parts:
            if part.kind == "name":
                text += f"\n{part.text} " if text else f"{part.text} "
            elif part.kind != "reasoning":
                text += part.text
        return text

    @property
    def answer(self) -> str:
        """The text without tool calls."""
        return "".join(part.text for part in self.parts if part.kind == "text")

    @property
    def reasoning(self) -> str:
        """What the model wrote before the text; empty if the response contains no reasoning."""
        return "".join(part.text for part in self.parts if part.kind == "reasoning")

    @property
    def tool_calls(self) -> list[tuple[str, str]]:
        """The name and the arguments of each tool call. The arguments are a JSON text."""
        calls: list[tuple[str, str]] = []
        for part in self.parts:
            if part.kind == "name":
                calls.append((part.text, ""))
            elif part.kind == "arguments" and calls:
                name, arguments = calls[-1]
                calls[-1] = (name, arguments + part.text)
        return calls


def completion_in(body: str, *, is_stream: bool) -> SentCompletion | None:
    """Returns the completion in a response's body. In JSON mode, its text is JSON.

    Returns None if the body of a response that is not a stream contains no completion.
    """
    if not is_stream:
        parts = [*_parts(json_or_none(body))]
        return SentCompletion(parts) if parts else None
    lines = (line for line in body.splitlines() if line.startswith(_PREFIX))
    events = [[*_parts(json_or_none(line.removeprefix(_PREFIX)))] for line in lines]
    parts = [part for event in events for part in event]
    return SentCompletion(parts, sum(map(bool, events)))


def _parts(value: Any) -> Iterator[_Part]:
    """Yields the texts, names of tools and arguments in the JSON of a response or an event."""
    match value:
        case {"result": dict(result), "success": True}:
            yield from _parts(result)
        case {"choices": [{"message": dict(message)} | {"delta": dict(message)}, *_]}:
            yield from _message_parts(message)
        case {"choices": [{"text": str(text)}, *_]} | {"result": [{"value": [str(text)]}, *_]}:
            yield _Part("text", text)
        case {"object": "response", "output": [*items]}:
            for item in items:
                yield from _item_parts(item)
        case {"type": str()}:
            yield from _responses_event_parts(value)
        case {"response": _} | {"tool_calls": _}:
            yield from _native_parts(value)


def _native_parts(result: dict[str, Any]) -> Iterator[_Part]:
    """Yields the parts of Workers AI's own format. In JSON mode, `response` is a JSON value."""
    match result.get("response"):
        case str(text):
            yield _Part("text", text)
        case value if value is not None:
            yield _Part("text", to_json(value).decode())
    yield from _call_parts(result.get("tool_calls"))


def _message_parts(message: dict[str, Any]) -> Iterator[_Part]:
    for key in ("reasoning_content", "reasoning"):  # if a message has both, they are equal
        if isinstance(text := message.get(key), str):
            yield _Part("reasoning", text)
            break
    match message.get("content"):
        case str(text):
            yield _Part("text", text)
        # A piece of a stream that is a number (see docs/parity.md, "Both forms").
        case int() | float() as number:
            yield _Part("text", to_json(number).decode())
    yield from _call_parts(message.get("tool_calls"))


def _call_parts(calls: Any) -> Iterator[_Part]:
    """Yields the names and arguments of tool calls, in OpenAI's form or in that of Workers AI.

    In a stream, only the first part of a call has the name.
    """
    for call in calls if isinstance(calls, list) else ():
        function = call.get("function", call) if isinstance(call, dict) else None
        match function:
            case {"name": str(name), **others}:
                yield _Part("name", name)
                yield _Part("arguments", _text(others.get("arguments")))
            case {"arguments": arguments}:
                yield _Part("arguments", _text(arguments))


def _text(arguments: Any) -> str:
    """Returns the arguments of a tool call, which Workers AI's own format has as an object."""
    if arguments is None or isinstance(arguments, str):
        return arguments or ""
    return to_json(arguments).decode()


def _item_parts(item: Any) -> Iterator[_Part]:
    """Yields the parts of an item in a response or an event of the Responses API."""
    match item:
        case {"type": "message" | "reasoning" as kind, "content": [*parts]}:
            for part in parts:
                if isinstance(part, dict) and isinstance(text := part.get("text"), str):
                    yield _Part("text" if kind == "message" else "reasoning", text)
        case {"type": "function_call"}:
            yield from _call_parts([item])


def _responses_event_parts(event: dict[str, Any]) -> Iterator[_Part]:
    """Yields the parts of an event of the Responses API."""
    match event:
        case {"type": "response.output_item.added", "item": item}:
            yield from _item_parts(item)
        case {"type": "response.reasoning_text.delta", "delta": str(text)}:
            yield _Part("reasoning", text)
        case {"type": "response.output_text.delta", "delta": str(text)}:
            yield _Part("text", text)
        case {"type": "response.function_call_arguments.delta", "delta": str(text)}:
            yield _Part("arguments", text)
