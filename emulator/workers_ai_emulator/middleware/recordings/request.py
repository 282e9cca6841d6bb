"""A call as a recording has it: by that it is known again, whoever calls and however it is written.

Equal are calls with the same path behind the account, query, model and body, where the order of
keys, white space and `1.0` for `1` make no difference. What is absent is not what is the default.
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

from workers_ai_emulator.errors import AiError
from workers_ai_emulator.routes.generation import GZIP_MAGIC, gunzip
from workers_ai_emulator.tasks import text_generation
from workers_ai_emulator.wire.calls import Call
from workers_ai_emulator.wire.redaction import Redaction

Json = dict[str, Any]

KEY_LENGTH = 16  # hexadecimal digits of the key in a file's name
_MAX_DEPTH = 100  # of JSON; what is nested deeper counts as text
_MAX_EXACT = 2**53  # whole numbers above are not all floats
_MAX_SLUG = 60


@dataclass(frozen=True)
class RecordedRequest:
    """`content` has `path`, perhaps `query` and `model`; JSON in `body`, or `text`, or `base64`."""

    content: Json

    @classmethod
    def of(cls, call: Call, query: bytes, body: bytes, redaction: Redaction) -> RecordedRequest:
        """The call, without what nobody may read."""
        pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True)
        needs_model = call.model is not None and call.model not in call.path
        head = {
            "path": redaction.text(call.path or "/"),
            "query": urlencode(sorted((name, redaction.text(value)) for name, value in pairs)),
            "model": redaction.text(call.model or "") if needs_model else "",
        }
        return cls({key: text for key, text in head.items() if text} | _body(body, redaction))

    @cached_property
    def canonical(self) -> str:
        """The same text for equal calls."""
        return json.dumps(self.content, sort_keys=True, separators=(",", ":"))

    @cached_property
    def key(self) -> str:
        return hashlib.sha256(self.canonical.encode()).hexdigest()[:KEY_LENGTH]

    @property
    def title(self) -> str:
        """What it is called in messages and logs."""
        return f"POST {printable(self.content['path'])}"

    @property
    def slug(self) -> str:
        """The model, or else the path, as part of a file's name."""
        path, body = self.content["path"], self.content.get("body")
        named = body.get("model") if isinstance(body, dict) else None
        if not isinstance(named, str):
            named = self.content.get("model") or path[path.find("@") if "@" in path else 0 :]
        return re.sub("[^A-Za-z0-9.]+", "-", named).strip("-.")[:_MAX_SLUG] or "call"


def printable(text: str) -> str:
    """Without what would break a line, or be a command to a terminal."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text)


def text_or_base64(data: bytes, redaction: Redaction) -> Json:
    """Bytes in JSON: `text` if they are that."""
    try:
        return {"text": redaction.text(data.decode())}
    except UnicodeDecodeError:
        redacted = redaction.text(data.decode("latin-1")).encode("latin-1")
        return {"base64": b64encode(redacted).decode()}


def _body(body: bytes, redaction: Redaction) -> Json:
    """As the routes read it, whatever its headers say."""
    try:
        if body.startswith(GZIP_MAGIC):
            body = gunzip(body)
        return {"body": redaction.value(_normalized(text_generation.parse_json(body)))}
    except (AiError, RecursionError, ValueError):  # it will be refused, but it has an answer
        return _unread(body, redaction)


def _normalized(value: Any, depth: int = 0) -> Any:
    """JSON in which equal numbers are the same. Raises RecursionError for what is too deep."""
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
        return text_or_base64(body, redaction)
    return {"text": value if isinstance(value, str) else json.dumps(value)}
