"""Everything that goes out on the wire: envelopes, event frames, and the two kinds of answer."""

from __future__ import annotations

import json
import logging
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from sse_starlette import EventSourceResponse
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from workers_ai_emulator.engine.types import Generation
from workers_ai_emulator.errors import (
    AiError,
    CloudflareError,
    EmulatorError,
    GatewayError,
    WireError,
)

log = logging.getLogger(__name__)

# Padding against guessing tokens by their length: the start of this text, repeated. Recorded
# lengths lie in 0 .. 49 and look uniform; at 0 the key is absent.
_PADDING = "abcdefghijklmnopqrstuvwxyz0123456789" * 2
_MAX_PADDING = 49
END_OF_STREAM = b"data: [DONE]\n\n"


def to_json(value: Any) -> bytes:
    """Compact JSON, non-ASCII text as it is but for lone surrogates, which have no UTF-8 form."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "backslashreplace")


def success(result: Any, messages: Sequence[Any] = ()) -> bytes:
    """The envelope around a result."""
    return to_json({"result": result, "success": True, "errors": [], "messages": messages})


def page(rows: Sequence[Any], *, number: int, size: int) -> bytes:
    """The envelope around page `number` (from 1) of `rows`, `size` to a page. [documented]"""
    result = rows[(number - 1) * size : number * size]
    info = {"count": len(result), "page": number, "per_page": size, "total_count": len(rows)}
    return to_json(
        {"success": True, "result": result, "errors": [], "messages": [], "result_info": info}
    )


def failure(error: WireError, request_id: str, *, is_bare: bool = False) -> bytes:
    """The envelope around an error, in the key order of the program that says it.

    Recorded: `{"errors":[{"message":…,"code":…}],"success":false,"result":{},"messages":[]}` from
    Workers AI, or its bare error through AI Gateway and bindings;
    `{"result":null,"success":false,"errors":[{"code":…,"message":…}],"messages":[]}` and
    `{"success":false,"errors":[…],"messages":[],"result":null}` from the front;
    `{"success":false,"result":[],"messages":[],"error":[{"code":…,"message":…}]}` from the gateway.
    """
    if isinstance(error, AiError):
        if is_bare:
            return _bare_failure(error, request_id)
        message = f"{error.message} ({request_id})"
        entry = {"message": message, "code": error.code}
        return to_json({"errors": [entry], "success": False, "result": {}, "messages": []})
    if isinstance(error, GatewayError):
        entries = [{"code": error.code, "message": error.message}]
        return to_json({"success": False, "result": [], "messages": [], "error": entries})
    assert isinstance(error, CloudflareError)
    if error.is_of_old_router:
        old = {"success": False, "errors": error.entries, "messages": [], "result": None}
        return to_json(old).replace(b"/", b"\\/")
    return to_json({"result": None, "success": False, "errors": error.entries, "messages": []})


def _bare_failure(error: AiError, request_id: str) -> bytes:
    return to_json(
        {
            "name": "AiError",
            "internalCode": error.code,
            "httpCode": error.status,
            "message": error.message,
            "description": error.description,
            "requestId": request_id,
        }
    )


class JsonResponse(Response):
    """A JSON body with the service's bare content type."""

    def __init__(
        self, body: bytes, status: int = 200, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(body, status, {"content-type": "application/json", **(headers or {})})


class EventStream(EventSourceResponse):
    """A stream of events that frees its slot however it ends.

    Without pings, comments and charset, which the service does not send.
    """

    def __init__(
        self, frames: AsyncIterator[bytes], generation: Generation, headers: Mapping[str, str]
    ) -> None:
        super().__init__(
            frames, ping=0, sep="\n", headers={**headers, "content-type": "text/event-stream"}
        )
        self._generation = generation

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        except EmulatorError as error:
            # The answer has begun, so that it breaks off is all that can be said.
            log.error("a stream breaks off: %s", error)
        finally:
            # A generator's own `finally` may run only when it is collected.
            self._generation.cancel()


class Padding:
    """Draws the `p` of each frame; the same seed gives the same lengths."""

    def __init__(self, seed: str) -> None:
        self._random = random.Random(seed)

    def pad(self, frame: dict[str, Any]) -> dict[str, Any]:
        """The frame with `p` as its last key."""
        if length := self._random.randint(0, _MAX_PADDING):
            frame["p"] = _PADDING[:length]
        return frame


def event(value: Any) -> bytes:
    """One event of a stream."""
    return b"data: " + to_json(value) + b"\n\n"
