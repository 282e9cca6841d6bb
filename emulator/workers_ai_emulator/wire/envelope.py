"""The JSON bodies and events that the service sends."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any

from workers_ai_emulator.wire.errors import Sender, WireError

END_OF_STREAM = b"data: [DONE]\n\n"

# Each event carries padding of random length, so that the length of an encrypted event does not
# show the length of its token: the start of this text. Recorded lengths are 0 to 49 and look
# uniform; at 0 the key `p` is absent.
_PADDING = "abcdefghijklmnopqrstuvwxyz0123456789" * 2
_MAX_PADDING = 49


def to_json(value: Any) -> bytes:
    """Returns compact JSON in UTF-8. Only lone surrogates, which UTF-8 cannot hold, are escaped."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "backslashreplace")


def success(result: Any, messages: Sequence[Any] = ()) -> bytes:
    """Returns the envelope around a result."""
    return to_json({"result": result, "success": True, "errors": [], "messages": messages})


def page(rows: Sequence[Any], *, number: int, size: int) -> bytes:
    """Returns the envelope around page `number` (from 1) of `rows`. [documented]"""
    result = rows[(number - 1) * size : number * size]
    info = {"count": len(result), "page": number, "per_page": size, "total_count": len(rows)}
    return to_json(
        {"success": True, "result": result, "errors": [], "messages": [], "result_info": info}
    )


def failure(error: WireError, request_id: str, *, is_bare: bool = False) -> bytes:
    """Returns the body for an error, with the keys in the order in which its sender writes them.

    `is_bare`: Workers AI's errors have no envelope, as AI Gateway and bindings pass them on.
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
    """Returns one event of a stream."""
    return b"data: " + to_json(value) + b"\n\n"


class Padding:
    """Adds padding to events. The same seed gives the same lengths."""

    def __init__(self, seed: str) -> None:
        # The same numbers as for the text itself, which may contain lone surrogates.
        self._random = random.Random(seed.encode("utf-8", "surrogatepass"))

    def pad(self, content: dict[str, Any]) -> dict[str, Any]:
        """Returns the event's content with the padding `p` as its last key."""
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
