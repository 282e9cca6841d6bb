"""Computes hashes of responses, without values that differ each time a call is sent.

For example, every response has a new request id, and the real service pads events with random
texts. With such values, the hash of each new response to a call would differ from the recorded one,
and recording the call again would always change its file.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

from workers_ai_emulator.middleware.recordings.recording import RecordedResponse

_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
# Keys whose values differ between equal responses: ids, times, padding, and how many tokens of the
# prompt were cached.
_VOLATILE_KEY = re.compile(
    "id|[a-z_]+_id|requestId|created|created_at|completed_at|p|obfuscation|cached_tokens"
)
_ID_HEADER = re.compile("cf-.*-id")
# Keys whose values are chosen by the model, so each difference in them counts.
_CONTENT = {"response", "arguments", "parsed"}
_ERROR_TEXTS = {"message", "description"}  # may contain the request id


def fingerprint(response: RecordedResponse) -> str:
    """Returns a hash of a response.

    The hash does not depend on request ids, times, padding or the number of cached tokens, but it
    depends on the id of a queued batch.
    """
    headers = {k: v for k, v in response.headers.items() if not _ID_HEADER.fullmatch(k)}
    events = [_event(event) for _, event in response.events or ()]
    body = response.base64 if response.text is None else _body(response.text)
    parts = [response.status, headers, response.ending, body, response.events is None, events]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _event(event: str) -> Any:
    head, _, data = event.partition("data: ")
    return [head, _body(data)]


def _body(text: str) -> Any:
    try:
        return _stable(json.loads(text))
    except (ValueError, RecursionError):
        return text


def _stable(value: Any) -> Any:
    """Returns a JSON value without the values that differ between equal responses."""
    match value:
        case dict():
            return {
                key: item if _is_content(key, item) else _stable_item(key, item)
                for key, item in value.items()
                if not _is_volatile(key, item) or _names_batch(key, value)
            }
        case list():
            return [_stable(item) for item in value]
    return value


def _is_content(key: str, value: Any) -> bool:
    # In the events of the Responses API, the key `response` has the response object, with its id.
    is_response_object = isinstance(value, dict) and value.get("object") == "response"
    return key in _CONTENT and not is_response_object


def _is_volatile(key: str, value: Any) -> bool:
    return _VOLATILE_KEY.fullmatch(key) is not None and not isinstance(value, dict | list)


def _names_batch(key: str, value: dict[str, Any]) -> bool:
    """Returns whether the item is the id of a queued batch: the calls for its result contain it."""
    return key == "request_id" and value.get("status") == "queued"


def _stable_item(key: str, value: Any) -> Any:
    if key in _ERROR_TEXTS and isinstance(value, str):
        return _UUID.sub("<uuid>", value)
    return _stable(value)
