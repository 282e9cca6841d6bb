"""The canonical form of an inference call. Its hash is the key that finds the call's recordings.

A recording matches a call if query, model, body and path are equal. These differences are ignored:
another account id, other credentials, another order of the JSON keys, other white space, and `1.0`
instead of `1`. A call that omits a parameter does not match a recording that contains the
parameter's default value.
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

KEY_LENGTH = 16  # hexadecimal digits of a call's key, which is a part of file names
_MAX_DEPTH = 100  # levels of nested JSON; a deeper body is stored as text
_MAX_EXACT = 2**53  # floats cannot represent all integers above this limit
_MAX_SLUG = 60


@dataclass(frozen=True)
class RecordedRequest:
    """An inference call in the form in which it is stored and compared with recorded calls.

    The keys of `content` are `path`, optionally `query` and `model`, and one key for the body:
    `body` for JSON, otherwise `text` or `base64`.
    """

    content: Json

    @classmethod
    def of(
        cls, call: InferenceCall, query: bytes, body: bytes, redaction: Redaction
    ) -> RecordedRequest:
        """Returns the canonical form of a call, without its credentials.

        Adds the credentials in the call's path, query and body to the secrets of `redaction`.
        """
        # The body is redacted first, so that its credentials are also removed from path and query.
        redacted_body = _body(body, redaction)
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
        """The canonical form as JSON text, which is equal for a call and its recordings."""
        return json.dumps(self.content, sort_keys=True, separators=(",", ":"))

    @cached_property
    def key(self) -> str:
        return hashlib.sha256(self.canonical.encode()).hexdigest()[:KEY_LENGTH]

    @property
    def title(self) -> str:
        """The call's method and path, for error messages and logs."""
        return f"POST {printable(self.content['path'])}"

    @property
    def slug(self) -> str:
        """The first part of the file names of the call's recordings.

        It is the model's name or, if the call does not name a model, the path.
        """
        path, body = self.content["path"], self.content.get("body")
        name = body.get("model") if isinstance(body, dict) else None
        if not isinstance(name, str):
            name = self.content.get("model") or path[path.find("@") if "@" in path else 0 :]
        return re.sub("[^A-Za-z0-9.]+", "-", name).strip("-.")[:_MAX_SLUG] or "call"


def printable(text: str) -> str:
    """Replaces unprintable characters, such as line breaks and terminal escapes, by U+FFFD."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text)


def text_or_base64(data: bytes, redaction: Redaction) -> Json:
    """Returns a body, without secrets, in the form that recordings store.

    The form is `{"text": …}` if the body is valid UTF-8, otherwise `{"base64": …}`.
    """
    try:
        return {"text": redaction.text(data.decode())}
    except UnicodeDecodeError:
        redacted = redaction.text(data.decode("latin-1")).encode("latin-1")
        return {"base64": b64encode(redacted).decode()}


def _body(body: bytes, redaction: Redaction) -> Json:
    """Returns the canonical form of a request body, without secrets.

    Ignores the headers content-type and content-encoding, as the routes do.
    """
    try:
        if body.startswith(GZIP_MAGIC):
            body = gunzip(body)
        return {"body": redaction.value(_normalized(parse_json(body)))}
    except (WireError, RecursionError, ValueError):
        # A body that is not valid JSON, or is nested too deep, is recorded as text or base64.
        return _unparsed(body, redaction)


def _normalized(value: Any, depth: int = 0) -> Any:
    """Replaces each float that is equal to an integer by that integer.

    Raises RecursionError if the JSON value is nested more than 100 levels deep.
    """
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


def _unparsed(body: bytes, redaction: Redaction) -> Json:
    try:
        value = redaction.json(body.decode())
    except UnicodeDecodeError:
        redaction.learn_text(body.decode("latin-1"))
        return text_or_base64(body, redaction)
    return {"text": value if isinstance(value, str) else json.dumps(value)}
