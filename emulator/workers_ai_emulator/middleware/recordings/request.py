"""The canonical form of a call, which is the lookup key of its recording.

Two calls match if path (without the account), query, model and body are equal. Credentials, the
order of keys, white space and `1.0` instead of `1` make no difference. An omitted parameter does
not match an explicit default.
"""

from __future__ import annotations

import hashlib
import json
import re
from base64 import b64encode
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import parse_qsl, urlencode

from workers_ai_emulator.wire.body import GZIP_MAGIC, gunzip, parse_json
from workers_ai_emulator.wire.calls import InferenceCall
from workers_ai_emulator.wire.errors import WireError
from workers_ai_emulator.wire.redaction import Redaction

Json = dict[str, Any]

KEY_LENGTH = 16  # hexadecimal digits of the key in a file's name
_MAX_DEPTH = 100  # of nested JSON; a deeper body is stored as text
_MAX_EXACT = 2**53  # larger integers are not all exact as floats
_MAX_SLUG = 60


@dataclass(frozen=True)
class RecordedRequest:
    """The content of a recording's request.

    `path`, optionally `query` and `model`, and the body: JSON as `body`, otherwise `text` or
    `base64`.
    """

    content: Json

    @classmethod
    def of(
        cls, call: InferenceCall, query: bytes, body: bytes, redaction: Redaction
    ) -> RecordedRequest:
        """Returns the canonical form of a call, without its credentials.

        `redaction` then also has the credentials in the call's path, query and body.
        """
        redacted_body = _body(body, redaction)  # which adds its credentials to the others
        text = query.decode("latin-1")
        redaction.query(text)
        pairs = parse_qsl(text, keep_blank_values=True)
        needs_model = call.model is not None and call.model not in call.path
        head = {
            "path": redaction.path(call.path or "/"),
            "query": urlencode(sorted(redaction.parameter(name, value) for name, value in pairs)),
            "model": redaction.text(call.model or "") if needs_model else "",
        }
        return cls({key: text for key, text in head.items() if text} | redacted_body)

    @cached_property
    def canonical(self) -> str:
        """A text that is the same for calls that match."""
        return json.dumps(self.content, sort_keys=True, separators=(",", ":"))

    @cached_property
    def key(self) -> str:
        return hashlib.sha256(self.canonical.encode()).hexdigest()[:KEY_LENGTH]

    @property
    def title(self) -> str:
        """The call's name in messages and logs."""
        return f"POST {printable(self.content['path'])}"

    @property
    def slug(self) -> str:
        """The model, or otherwise the path, as part of a file name."""
        path, body = self.content["path"], self.content.get("body")
        named = body.get("model") if isinstance(body, dict) else None
        if not isinstance(named, str):
            named = self.content.get("model") or path[path.find("@") if "@" in path else 0 :]
        return re.sub("[^A-Za-z0-9.]+", "-", named).strip("-.")[:_MAX_SLUG] or "call"


def printable(text: str) -> str:
    """Replaces line breaks and terminal escapes."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text)


def text_or_base64(data: bytes, redaction: Redaction) -> Json:
    """Returns bytes for JSON: as `text` if they are UTF-8, otherwise as `base64`."""
    try:
        return {"text": redaction.text(data.decode())}
    except UnicodeDecodeError:
        redacted = redaction.text(data.decode("latin-1")).encode("latin-1")
        return {"base64": b64encode(redacted).decode()}


def _body(body: bytes, redaction: Redaction) -> Json:
    """Returns the body, parsed like the routes parse it: whatever its headers say."""
    try:
        if body.startswith(GZIP_MAGIC):
            body = gunzip(body)
        value = _normalized(parse_json(body))
        redaction.learn(value)
        return {"body": redaction.value(value)}
    except (WireError, RecursionError, ValueError):  # the call fails, and its error can be recorded
        return _unread(body, redaction)


def _normalized(value: Any, depth: int = 0) -> Any:
    """Replaces floats by equal integers. Raises RecursionError if the value is nested too deep."""
    if depth > _MAX_DEPTH:
        raise RecursionError
    match value:
        case float() if value.is_integer() and abs(value) <= _MAX_EXACT:
            return int(value)
        case list():
            return [_normalized(item, depth + 1) for item in value]
        case dict():
            return {key: _normalized(item, depth + 1) for key, item in value.items()}
    return value


def _unread(body: bytes, redaction: Redaction) -> Json:
    try:
        value = redaction.json(body.decode())
    except UnicodeDecodeError:
        redaction.learn_text(body.decode("latin-1"))
        return text_or_base64(body, redaction)
    return {"text": value if isinstance(value, str) else json.dumps(value)}
