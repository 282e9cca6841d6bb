"""Builds JSON bodies and server-sent events with the keys and bytes that Cloudflare sends."""

from __future__ import annotations

import json
import math
import random
import secrets
from collections.abc import Sequence
from typing import Any

import pydantic_core

from workers_ai_emulator.wire.errors import Sender, WireError

END_OF_STREAM = b"data: [DONE]\n\n"

_STYLE: dict[str, Any] = {"ensure_ascii": False, "separators": (",", ":"), "allow_nan": False}
_ENCODER = json.JSONEncoder(**_STYLE)
_ANTHROPIC_TYPES = {  # the types of errors of Anthropic's API, by HTTP status
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
}
# Replaces each `Written` in a JSON text. Clients cannot know it, so no value of theirs contains it.
_PLACE = secrets.token_hex(16)

# An event's padding, under the key `p`, hides the length of the token from people who see only the
# length of an encrypted event. In recorded events of models without tools, the padding is the
# beginning of this text and has 0 to 49 characters. All lengths are about equally frequent. An
# event without padding has no key `p`.
_PADDING = "abcdefghijklmnopqrstuvwxyz0123456789" * 2
_MAX_PADDING = 49
# The same for models with tools, whose padding has 5 to 50 characters [recorded 2025].
_PADDING_WITH_TOOLS = "abdefghijklmnoprstuvxyz1234567890" * 2
# Converts random bytes to digits in base 36.
_BASE36 = bytes(b"0123456789abcdefghijklmnopqrstuvwxyz"[byte % 36] for byte in range(256))

# In the content of an EventTemplate, these texts are replaced: `VALUE` as the value of any key, and
# `PADDING` as the value of the key `p`. They are characters that Unicode reserves for private use.
VALUE = "\ue000"
PADDING = "\ue001"


class Written:
    """A part of a value whose JSON is already written. `to_json` copies it.

    `json`: the JSON in UTF-8.
    """

    __slots__ = ("json",)

    def __init__(self, json: bytes) -> None:
        self.json = json


def json_text(value: Any) -> str:
    """Returns the value as compact JSON. Does not escape non-ASCII characters.

    Numbers that are not finite become null, as in JavaScript.
    """
    try:
        return _ENCODER.encode(value)
    except ValueError:  # a number is not finite
        return _ENCODER.encode(_finite(value))


def text_of(value: Any) -> str:
    """Returns a text unchanged, and any other value as JSON."""
    return value if isinstance(value, str) else json_text(value)


def to_json(value: Any) -> bytes:
    """Returns the value as compact JSON in UTF-8. The value may contain parts of type `Written`.

    Does not escape non-ASCII characters, except lone surrogates, which UTF-8 cannot encode. Numbers
    that are not finite become null, as in JavaScript.
    """
    written: list[bytes] = []

    def place(part: Any) -> str:
        if not isinstance(part, Written):
            raise TypeError(f"{type(part).__name__} cannot be written as JSON")
        written.append(part.json)
        return _PLACE

    encoder = json.JSONEncoder(**_STYLE, default=place)
    try:
        text = encoder.encode(value)
    except ValueError:  # a number is not finite
        written.clear()
        text = encoder.encode(_finite(value))
    first, *others = text.split(f'"{_PLACE}"') if written else [text]
    parts = [_to_bytes(first)]
    for part, other in zip(written, others, strict=True):
        parts += [part, _to_bytes(other)]
    return b"".join(parts)


def written_numbers(numbers: Sequence[float]) -> Written:
    """Writes the JSON of a list of floats, in a seventh of the time that `json` takes [measured].

    Numbers that are not finite become null.
    """
    return Written(pydantic_core.to_json(numbers, inf_nan_mode="null"))


def success(result: Any, messages: Sequence[Any] = ()) -> bytes:
    """Returns the JSON body of a successful response: `result` in Cloudflare's envelope."""
    return to_json({"result": result, "success": True, "errors": [], "messages": messages})


def page(rows: Sequence[Any], *, number: int, size: int) -> bytes:
    """Returns the JSON body with one page of a list, in the form that Cloudflare documents.

    `rows`: the whole list, with the rows of all pages.
    `number`: the number of the page; the first page has the number 1.
    `size`: the number of rows per page.
    """
    result = rows[(number - 1) * size : number * size]
    info = {"count": len(result), "page": number, "per_page": size, "total_count": len(rows)}
    return to_json(
        {"success": True, "result": result, "errors": [], "messages": [], "result_info": info}
    )


def failure(error: WireError, request_id: str, *, is_bare: bool = False) -> bytes:
    """Returns the JSON body of an error response.

    The form of the body depends on `error.type.sender`: Cloudflare's API, AI Gateway or Workers AI.
    The keys have the order of recorded responses.
    `is_bare`: whether errors of Workers AI have no envelope. True for responses to AI bindings and
    for responses of AI Gateway.
    """
    match error.type.sender:
        case Sender.WORKERS_AI if is_bare:
            return _bare_failure(error, request_id)
        case Sender.WORKERS_AI:
            entry = {"message": f"{error.message} ({request_id})", "code": error.type.code}
            return to_json({"errors": [entry], "success": False, "result": {}, "messages": []})
        case Sender.GATEWAY_LIMIT if is_bare:
            return _gateway_failure(error)
        case Sender.GATEWAY_LIMIT:
            entry = {"message": str(error), "code": error.type.code}
            return to_json({"errors": [entry], "success": False, "result": {}, "messages": []})
        case Sender.GATEWAY:
            return to_json({"success": False, "result": [], "messages": [], "error": error.entries})
        case Sender.LEGACY_API:
            body = {"success": False, "errors": error.entries, "messages": [], "result": None}
            return to_json(body).replace(b"/", b"\\/")
        case Sender.API:
            return to_json(
                {"result": None, "success": False, "errors": error.entries, "messages": []}
            )


def responses_failure(error: WireError, request_id: str) -> bytes:
    """Returns the JSON body of an error of Workers AI for the Responses API.

    The key `code` is the same for all errors [recorded for code 5006, and for a timeout].
    """
    message = f"{error.message} ({request_id})"
    return to_json({"error": {"code": "invalid_prompt", "message": message}})


def messages_failure(error: WireError, request_id: str) -> bytes:
    """Returns the JSON body of an error for Anthropic's Messages API, in Anthropic's form.

    The keys, and the types for the statuses 400 and 404, are recorded behind a proxy, which may
    have written them. The other types are those of Anthropic's documentation.
    """
    is_from_model = error.type.sender is Sender.WORKERS_AI
    text = f"{error.message} ({request_id})" if is_from_model else str(error)
    type = _ANTHROPIC_TYPES.get(error.type.status, "invalid_request_error")
    return to_json({"type": "error", "error": {"type": type, "message": text}})


def event(value: Any) -> bytes:
    """Returns a server-sent event whose data is the value as JSON."""
    return b"data: " + to_json(value) + b"\n\n"


class EventTemplate:
    """A server-sent event that is written many times, with different values.

    For each event, only the values are encoded, which takes a fraction of the time. `content`: the
    event's JSON object, with `VALUE` and `PADDING` in place of the parts that differ.
    """

    def __init__(self, content: dict[str, Any]) -> None:
        text = json_text(content).replace("%", "%%")
        text = text.replace(f',"p":"{PADDING}"', "%s").replace(f'"{VALUE}"', "%s")
        self._format = f"data: {text}\n\n"

    def fill(self, *values: str) -> bytes:
        """Returns the event.

        `values`: in the order of the content, a JSON text for each `VALUE`, and for `PADDING` the
        result of `Padding.next`.
        """
        return _to_bytes(self._format % values)


class Padding:
    """Chooses the padding of each event of a stream: the beginning of a fixed text.

    Streams with the same `seed` have paddings of the same lengths. `has_tools`: whether the model
    has tools, because the service's padding of these models is another text.
    """

    def __init__(self, seed: str, *, has_tools: bool = False) -> None:
        self._random = _random(seed)
        self._text = _PADDING_WITH_TOOLS if has_tools else _PADDING
        self._lengths = (5, 50) if has_tools else (0, _MAX_PADDING)

    def next(self) -> str:
        """Returns the padding of the next event, in the form `,"p":"abc"`. May be empty."""
        length = self._random.randint(*self._lengths)
        return f',"p":"{self._text[:length]}"' if length else ""


class RandomPadding:
    """Chooses the padding of each event of a stream of SGLang: up to 50 random digits in base 36.

    Streams with the same `seed` have the same paddings.
    """

    def __init__(self, seed: str) -> None:
        self._random = _random(seed)

    def next(self) -> str:
        """Returns the padding of the next event, in the form `,"p":"abc"`. May be empty."""
        digits = self._random.randbytes(self._random.randint(0, 50)).translate(_BASE36)
        return f',"p":"{digits.decode()}"' if digits else ""


def _random(seed: str) -> random.Random:
    # Encodes the seed, because `Random` raises an error for a text with lone surrogates.
    return random.Random(seed.encode("utf-8", "surrogatepass"))


def _finite(value: Any) -> Any:
    """Returns a JSON value with null in place of numbers that are not finite."""
    match value:
        case float():
            return value if math.isfinite(value) else None
        case dict():
            return {key: _finite(inner) for key, inner in value.items()}
        case list() | tuple():
            return [_finite(inner) for inner in value]
    return value


def _to_bytes(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")


def _bare_failure(error: WireError, request_id: str) -> bytes:
    return to_json(
        {
            "name": "AiError",
            "internalCode": error.type.code,
            "httpCode": error.type.status,
            "message": error.message,
            "description": f"{error}{error.type.more}",
            "requestId": request_id,
        }
    )


def _gateway_failure(error: WireError) -> bytes:
    """Returns the body of an error of AI Gateway for AI Gateway's own paths and for AI bindings.

    The keys up to `internalCode` are recorded; the other ones are those that bindings read.
    """
    return to_json(
        {
            "success": False,
            "result": [],
            "messages": [],
            "error": error.entries,
            "name": "AiGatewayError",
            "httpCode": error.type.status,
            "internalCode": error.type.code,
            "message": str(error),
            "description": error.type.description or str(error),
        }
    )
