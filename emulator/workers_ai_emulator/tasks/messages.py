"""Converts the messages of a request's body, in all forms that the models' schemas accept."""

from __future__ import annotations

import json
import re
from typing import Any

from workers_ai_emulator.prompts.messages import Message
from workers_ai_emulator.prompts.tools import ToolCall
from workers_ai_emulator.wire.errors import INVALID_DATA, WireError

_DATA_URL = re.compile(r"data:([^;,]*)[;,]")
# Roles of OpenAI's API, and the roles that chat templates know for the same kind of message.
_ROLES = {"developer": "system", "function": "tool"}


def parse_messages(value: Any) -> list[Message]:
    """Converts the value of the key `messages` in a validated body to messages.

    The value is a list of messages, or an object with messages as values: Cloudflare's schema
    accepts both forms. Items that are not messages are ignored. Raises WireError if a message
    contains an image or audio as base64 data.
    """
    items = list(value.values()) if isinstance(value, dict) else value
    if not isinstance(items, list):
        return []
    return [
        _message(item, role)
        for item in items
        if isinstance(item, dict) and isinstance(role := item.get("role"), str)
    ]


def _message(item: dict[str, Any], role: str) -> Message:
    call_id = item.get("tool_call_id")
    name = item.get("name")
    return Message(
        role=_ROLES.get(role, role),
        content=_text(item.get("content")),
        tool_calls=_tool_calls(item),
        tool_call_id=call_id if isinstance(call_id, str) else None,
        name=name if isinstance(name, str) else None,
    )


def _tool_calls(item: dict[str, Any]) -> tuple[ToolCall, ...]:
    """Returns the tool calls of an assistant message.

    Each call has OpenAI's form with the key `function`, or the service's own form `{name,
    arguments}`. The key `function_call` contains a single call, in an old form of OpenAI's API.
    """
    calls = item.get("tool_calls")
    calls = calls if isinstance(calls, list) else [item.get("function_call")]
    return tuple(call for call in map(_tool_call, calls) if call)


def _tool_call(value: Any) -> ToolCall | None:
    """Returns a tool call. Returns None if `value` does not contain a tool's name."""
    if not isinstance(value, dict):
        return None
    function = value["function"] if isinstance(value.get("function"), dict) else value
    call_id = value.get("id")
    if not isinstance(name := function.get("name"), str):
        return None
    arguments = function.get("arguments")
    return ToolCall(
        name=name,
        arguments=arguments if isinstance(arguments, str) else _json(arguments),
        id=call_id if isinstance(call_id, str) else None,
    )


def _json(arguments: Any) -> str:
    return "{}" if arguments is None else json.dumps(arguments, ensure_ascii=False)


def _text(content: Any) -> str:
    """Returns the text of a message's content. Raises WireError if the content has base64 data.

    If the content has several parts, joins their texts by line breaks, as vLLM does. We assume that
    the service does the same.
    """
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else [content]
    if data_type := next(filter(None, map(_data_type, parts)), None):
        raise WireError(INVALID_DATA, data_type)
    texts = [_text_of_part(part) for part in parts]
    return "\n".join(text for text in texts if isinstance(text, str))


def _text_of_part(part: Any) -> Any:
    return part.get("text", part.get("refusal")) if isinstance(part, dict) else part


def _data_type(part: Any) -> str | None:
    """Returns the media type of the image or audio in a message part of OpenAI's format.

    Returns None if the part contains no base64 data.
    """
    match part:
        case {"image_url": {"url": str(url)} | str(url)} if data := _DATA_URL.match(url):
            return data[1] or "text/plain"  # the default media type of data URLs [RFC 2397]
        case {"input_audio": {"data": str(), "format": str(audio_format)}}:
            return f"audio/{audio_format}"
    return None
