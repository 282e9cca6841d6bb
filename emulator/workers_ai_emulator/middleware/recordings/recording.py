"""Defines the content and the file format of a recording: an inference call and its response."""

from __future__ import annotations

import binascii
import json
import re
from base64 import b64decode
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from workers_ai_emulator.middleware.recordings.request import RecordedRequest
from workers_ai_emulator.wire.validation import error_lines

Ending = Literal["whole", "client left", "broken off"]
Milliseconds = Annotated[int, Field(ge=0, le=30 * 86_400_000)]

# The maximum depth of nested values in a recording's JSON. The server's own recordings are less
# deep, because the server stores a request body with more than 100 levels as text.
_MAX_DEPTH = 200
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_TEXT = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
# Matches surrogates that represent no byte. Python decodes an invalid byte to a surrogate from
# U+DC80 to U+DCFF ("surrogateescape"); this pattern matches all other surrogates.
_NO_BYTES = re.compile("[\ud800-\udc7f\udd00-\udfff]")
_EMPTY_EVENTS_AT_END = "[]\n  }\n}"


class RecordedResponse(BaseModel):
    """The response in a recording. Times are in milliseconds since the request arrived.

    `after_ms`: the time when the response began. `events`: the time and the text of each event of a
    stream. Exactly one of `text`, `base64` and `events` is set. `ending`: how the response ended.
    If it is not `whole`, the replayed response breaks off too, after the recorded part.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    status: int = Field(ge=200, le=599)
    headers: dict[str, str]
    after_ms: Milliseconds
    ending: Ending = "whole"
    text: str | None = None
    base64: str | None = None
    events: list[tuple[Milliseconds, str]] | None = None

    @field_validator("headers")
    @classmethod
    def _are_headers(cls, value: dict[str, str]) -> dict[str, str]:
        for name, text in value.items():
            if not _HEADER_NAME.fullmatch(name) or not _HEADER_TEXT.fullmatch(text):
                raise ValueError("a header has characters that HTTP does not allow")
        return value

    @field_validator("base64")
    @classmethod
    def _is_base64(cls, value: str | None) -> str | None:
        try:
            b64decode(value or "", validate=True)
        except binascii.Error as error:
            raise ValueError(f"no base64: {error}") from error
        return value

    @property
    def body(self) -> bytes:
        """The body of the response. Empty for a stream, whose body is in `events`."""
        return _to_bytes(self.text or "") or b64decode(self.base64 or "")

    @property
    def event_bytes(self) -> Iterator[tuple[int, bytes]]:
        """The time and the bytes of each event of a stream.

        Lone surrogates in the text of an event represent bytes that are not valid UTF-8.
        """
        for ms, event in self.events or ():
            yield ms, _to_bytes(event)


class Recording(BaseModel):
    """An inference call and its response. `source` names the backend or service that responded."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1
    recorded_at: str
    source: str
    request: dict[str, Any]
    answer: RecordedResponse

    @classmethod
    def parse(cls, text: str | bytes) -> Recording:
        """Parses the content of a recording's file. Raises ValueError if the content is invalid."""
        try:
            content = json.loads(text)
            _check_depth(content)
            recording = cls.model_validate(content)
        except ValidationError as error:
            raise ValueError("; ".join(error_lines(error))) from error
        except RecursionError as error:
            raise ValueError("it is nested too deep") from error
        if not isinstance(recording.request.get("path"), str):
            raise ValueError("request: path is missing")
        return recording

    @property
    def recorded_request(self) -> RecordedRequest:
        return RecordedRequest(self.request)

    def to_text(self) -> str:
        """Returns the recording as indented JSON, with one line for each event of a stream."""
        answer = self.answer.model_dump(exclude_none=True)
        events = answer.pop("events", None)
        content = {**self.model_dump(exclude={"answer"}), "answer": answer}
        if events is not None:
            answer["events"] = []
        text = _to_json(content, indent=2)
        if events:
            lines = ",\n".join(f"      {_to_json(event)}" for event in events)
            text = f"{text.removesuffix(_EMPTY_EVENTS_AT_END)}[\n{lines}\n    ]\n  }}\n}}"
        return f"{text}\n"


def _to_json(value: Any, indent: int | None = None) -> str:
    """Returns the value as JSON.

    Does not escape non-ASCII characters, except lone surrogates, which UTF-8 cannot encode.
    """
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    return text.encode("utf-8", "backslashreplace").decode()


def _to_bytes(text: str) -> bytes:
    """Encodes a recorded text in UTF-8.

    A surrogate from U+DC80 to U+DCFF becomes the invalid byte that it represents. Any other lone
    surrogate becomes U+FFFD.
    """
    return _NO_BYTES.sub("\ufffd", text).encode("utf-8", "surrogateescape")


def _check_depth(value: Any, left: int = _MAX_DEPTH) -> None:
    """Raises RecursionError if the JSON value has more than `left` nested levels."""
    if left == 0:
        raise RecursionError
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            _check_depth(item, left - 1)
