"""Builds JSON bodies and server-sent events with the keys and bytes that Cloudflare sends."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any

from workers_ai_emulator.wire.errors import Sender, WireError

END_OF_STREAM = b"data: [DONE]\n\n"

_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))

# An event's padding, under the key `p`, is the beginning of this text. In recorded events, the
# padding has 0 to 49 characters, and all lengths are about equally frequent. An event without
# padding has no key `p`. The padding hides the length of the token from people who see only the
# length of an encrypted event.
_PADDING = "abcdefghijklmnopqrstuvwxyz0123456789" * 2
_MAX_PADDING = 49


def to_json(value: Any) -> bytes:
    """Returns the value as compact JSON in UTF-8.

    Does not escape non-ASCII characters, except lone surrogates, which UTF-8 cannot encode.
    """
    return _ENCODER.encode(value).encode("utf-8", "backslashreplace")


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
        case Sender.GATEWAY:
            return to_json({"success": False, "result": [], "messages": [], "error": error.entries})
        case Sender.LEGACY_API:
            body = {"success": False, "errors": error.entries, "messages": [], "result": None}
            return to_json(body).replace(b"/", b"\\/")
        case Sender.API:
            return to_json(
                {"result": None, "success": False, "errors": error.entries, "messages": []}
            )


def event(value: Any) -> bytes:
    """Returns a server-sent event whose data is the value as JSON."""
    return b"data: " + to_json(value) + b"\n\n"


class Padding:
    """Adds padding of random lengths to the events of a stream.

    Streams with the same `seed` have paddings of the same lengths.
    """

    def __init__(self, seed: str) -> None:
        # Encodes the seed, because `Random` raises an error for a text with lone surrogates.
        self._random = random.Random(seed.encode("utf-8", "surrogatepass"))

    def pad(self, content: dict[str, Any]) -> dict[str, Any]:
        """Adds padding, under the key `p`, to an event's JSON object. Returns the object."""
        if length := self._random.randint(0, _MAX_PADDING):
            content["p"] = _PADDING[:length]
        return content


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
