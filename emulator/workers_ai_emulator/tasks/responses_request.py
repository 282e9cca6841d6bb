"""Converts requests of OpenAI's Responses API to chat requests.

[OpenAI's API reference; Cloudflare's types in workerd, `types/defines/ai.d.ts`]
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from workers_ai_emulator.json_values import is_too_deep
from workers_ai_emulator.models.spec import ModelSpec
from workers_ai_emulator.models.validator import SchemaMismatch
from workers_ai_emulator.tasks import text_generation
from workers_ai_emulator.tasks.text_generation import TextGenerationRequest
from workers_ai_emulator.wire.errors import BAD_INPUT, WireError

Json = dict[str, Any]

# These parameters need state or programs that the service and the emulator do not have.
_UNSUPPORTED = ("previous_response_id", "conversation", "background", "prompt")
_SAME = ("stream", "temperature", "top_p", "seed", "reasoning", "parallel_tool_calls")


def is_responses_request(body: Any) -> bool:
    """Returns whether a body is a request of the Responses API and not a chat request."""
    return isinstance(body, dict) and "input" in body and not body.keys() & {"messages", "prompt"}


def parse(body: Any, spec: ModelSpec, *, seed: int | None = None) -> TextGenerationRequest:
    """Validates a request of the Responses API, and returns it as a TextGenerationRequest.

    `seed` is used if the body has no seed. Without `max_output_tokens`, the completion may fill the
    rest of the context. Raises WireError for an invalid or unsupported input.
    """
    try:
        spec.validator.validate(body)
    except SchemaMismatch as error:
        raise WireError(BAD_INPUT, error) from error
    chat = chat_request(body)
    request = text_generation.parse(chat, spec, seed=seed)
    if "max_tokens" in chat:
        return request
    return replace(request, params=replace(request.params, max_tokens=None))


def chat_request(body: Json) -> Json:
    """Converts the body of a request of the Responses API to that of a chat request.

    Raises WireError if the body has no `input`, or a part that the emulator does not support.
    """
    body = {key: value for key, value in body.items() if value is not None}
    if "input" not in body:  # some schemas also accept the body of a chat request
        raise _invalid("required properties at '/' are 'input'")
    if unsupported := next((key for key in _UNSUPPORTED if body.get(key)), None):
        raise _invalid(f"the Responses API's {unsupported} is not supported")
    if is_too_deep(body):
        raise _invalid("the request is nested too deeply")
    chat: Json = {key: body[key] for key in _SAME if key in body}
    chat["messages"] = _messages(body)
    if "max_output_tokens" in body:
        chat["max_tokens"] = body["max_output_tokens"]
    if tools := body.get("tools"):
        chat["tools"] = [_tool(tool) for tool in _list(tools, "tools")]
    if "tool_choice" in body:
        chat["tool_choice"] = _tool_choice(body["tool_choice"])
    if response_format := _response_format(body.get("text")):
        chat["response_format"] = response_format
    return chat


def _messages(body: Json) -> list[Json]:
    messages: list[Json] = []
    if "instructions" in body:
        messages.append({"role": "system", "content": _text(body["instructions"])})
    value = body["input"]
    if isinstance(value, str):
        return [*messages, {"role": "user", "content": value}]
    for item in _list(value, "input"):
        _add(item, messages)
    return messages


def _add(item: Any, messages: list[Json]) -> None:
    """Adds the message of an item of `input`. Items with reasoning are ignored.

    Consecutive tool calls belong to one message of the assistant.
    """
    match item:
        case {"type": "function_call", "name": str(name), "call_id": str(call_id)}:
            function = {"name": name, "arguments": _text(item.get("arguments", "{}"))}
            call = {"id": call_id, "type": "function", "function": function}
            if not messages or messages[-1]["role"] != "assistant":
                messages.append({"role": "assistant", "content": ""})
            messages[-1].setdefault("tool_calls", []).append(call)
        case {"type": "function_call_output", "call_id": str(call_id)}:
            output = _text(item.get("output", ""))
            messages.append({"role": "tool", "tool_call_id": call_id, "content": output})
        case {"type": "reasoning"}:
            return
        case {"role": str(role), "content": content} if item.get("type", "message") == "message":
            messages.append({"role": role, "content": _content(content)})
        case {"type": "item_reference"}:
            raise _invalid(
                "input refers to an item of an earlier response, but responses are not stored: "
                "send the item itself, as the AI SDK does with the option store: false"
            )
        case _:
            raise _invalid(f"an item of input is not supported: {_kind(item)}")


def _content(content: Any) -> Any:
    """Returns the content of a message in the form of a chat request.

    A content that has only texts is returned as one text.
    """
    if not isinstance(content, list):
        return _text(content)
    parts = [_part(part) for part in content]
    if all(part["type"] == "text" for part in parts):
        return "\n".join(part["text"] for part in parts)
    return parts


def _part(part: Any) -> Json:
    match part:
        case {"type": "input_text" | "output_text" | "text", "text": str(text)}:
            return {"type": "text", "text": text}
        case {"type": "refusal", "refusal": str(text)}:
            return {"type": "text", "text": text}
        case {"type": "input_image", "image_url": str(url)}:
            return {"type": "image_url", "image_url": {"url": url}}
    raise _invalid(f"a part of a message's content is not supported: {_kind(part)}")


def _text(value: Any) -> str:
    """Returns a value that must be a text, or a list of parts that are texts."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and isinstance(text := _content(value), str):
        return text
    raise _invalid(f"a text is expected, not {_kind(value)}")


def _tool(tool: Any) -> Json:
    """Returns a tool in the form of a chat request."""
    match tool:
        case {"type": "function", "name": str(name)}:
            function = {"name": name, "description": tool.get("description") or ""}
            parameters = tool.get("parameters") or {"type": "object", "properties": {}}
            return {"type": "function", "function": function | {"parameters": parameters}}
    raise _invalid(f"a tool is not supported: {_kind(tool)}")


def _tool_choice(choice: Any) -> Any:
    match choice:
        case {"type": "function", "name": str(name)}:
            return {"type": "function", "function": {"name": name}}
        case {"type": "allowed_tools", "mode": mode, "tools": tools}:
            return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}
    return choice


def _response_format(text: Any) -> Any:
    """Returns the format in the value of `text` as `response_format`.

    Returns None without a format, and for the default `text`, which some schemas of chat requests
    do not accept as `response_format`.
    """
    match text:
        case {"format": {"type": "text"}}:
            return None
        case {"format": {"type": "json_schema", "schema": schema, **others}}:
            name = others.get("name", "response")
            return {"type": "json_schema", "json_schema": {"name": name, "schema": schema}}
        case {"format": value}:
            return value
    return None


def _list(value: Any, name: str) -> Iterable[Any]:
    if isinstance(value, list):
        return value
    raise _invalid(f"{name} is not a list")


def _kind(value: Any) -> str:
    """Returns the type that an object names in its key `type`, otherwise a value's Python type.

    The text is at most 100 characters long.
    """
    match value:
        case {"type": str(kind)}:
            return kind[:100]
    return type(value).__name__


def _invalid(text: str) -> WireError:
    return WireError(BAD_INPUT, text)
