"""Reads and writes the file format of recordings: JSON with a request and its response.

If the same call is recorded again and gets the same response, its file must not change. So a file
contains times only if the setting `record_timing` is set. Users must be able to read and edit a
file. So JSON in a body or in an event is stored as JSON, and not as a text with escaped quotation
marks.

Version 1 of the format stored all bodies and events as texts, and always contained times. Files of
version 1 can still be read.
"""

from __future__ import annotations

import binascii
import json
import re
from base64 import b64decode
from typing import Annotated, Any, Literal, NoReturn

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from workers_ai_emulator.middleware.recordings.json_lines import line_of
from workers_ai_emulator.middleware.recordings.recording import Ending, RecordedResponse, Recording
from workers_ai_emulator.middleware.recordings.request import Json
from workers_ai_emulator.wire.envelope import json_text
from workers_ai_emulator.wire.validation import error_lines, shown

_VERSION = 2
# The maximum depth of nested values in a recording's JSON. The server's own recordings are less
# deep, because the server stores a body with more than 100 levels as text.
_MAX_DEPTH = 200
_MAX_BODY_DEPTH = 100
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_TEXT = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_DATA, _END_OF_EVENT = "data: ", "\n\n"
_EMPTY_EVENTS_AT_END = "[]\n  }\n}"
_BODIES = ("json", "text", "base64", "events", "timed_events")


def parse_recording(text: str) -> Recording:
    """Returns the recording in the text of a file.

    Raises ValueError if the text is not a recording. The error's message names the line of each
    mistake.
    """
    try:
        content = json.loads(text)
        _check_depth(content, _MAX_DEPTH)
    except json.JSONDecodeError as error:
        raise ValueError(f"line {error.lineno}: {error.msg}, column {error.colno}") from error
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error
    if not isinstance(content, dict):
        raise ValueError("line 1: it is not a JSON object")
    version = content.get("version", 1)
    if version not in (1, _VERSION):
        line, given = line_of(text, ("version",)), shown(version)
        raise ValueError(f"line {line}: version: it is 1 or {_VERSION}, not {given}")
    file_type = _File if version == _VERSION else _OldFile
    try:
        return file_type.model_validate(content).recording()
    except ValidationError as error:
        lines, details = error_lines(error, file_type), error.errors()
        numbers = [line_of(text, detail["loc"]) for detail in details[: len(lines)]]
        numbered = [f"line {n}: {line}" for n, line in zip(numbers, lines, strict=False)]
        raise ValueError("; ".join(numbered + lines[len(numbered) :])) from error


def recording_text(recording: Recording) -> str:
    """Returns the text of a recording's file: indented JSON, with a line for each event."""
    answer = _answer_json(recording.answer)
    content: Json = {"version": _VERSION, "source": recording.source}
    if recording.times > 1:
        content["times"] = recording.times
    content |= {"request": recording.request, "answer": answer}
    key = next((key for key in ("events", "timed_events") if answer.get(key)), None)
    if key is None:
        return f"{_to_json(content, indent=2)}\n"
    events, answer[key] = answer[key], []
    lines = ",\n".join(f"      {_to_json(event)}" for event in events)
    text = _to_json(content, indent=2).removesuffix(_EMPTY_EVENTS_AT_END)
    return f"{text}[\n{lines}\n    ]\n  }}\n}}\n"


# ── the content of files ──────────────────────────────────────────────────────────────────────


def _check_headers(headers: dict[str, str]) -> dict[str, str]:
    for name, text in headers.items():
        if not _HEADER_NAME.fullmatch(name) or not _HEADER_TEXT.fullmatch(text):
            raise ValueError("a header has characters that HTTP does not allow")
    return headers


def _check_base64(text: str) -> str:
    try:
        b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"no base64: {error}") from error
    return text


def _check_path(request: Json) -> Json:
    if not isinstance(request.get("path"), str):
        raise ValueError("path is missing")
    return request


_Milliseconds = Annotated[int, Field(ge=0, le=30 * 86_400_000)]
_Request = Annotated[dict[str, Any], AfterValidator(_check_path)]


class _OldAnswer(BaseModel):
    """The key `answer` in a file of version 1. `events`: the time and the text of each event."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    status: int = Field(ge=200, le=599)
    headers: Annotated[dict[str, str], AfterValidator(_check_headers)]
    after_ms: _Milliseconds
    ending: Ending = "whole"
    text: str | None = None
    base64: Annotated[str, AfterValidator(_check_base64)] | None = None
    events: list[tuple[_Milliseconds, str]] | None = None

    def response(self) -> RecordedResponse:
        events = None if self.events is None else tuple(self.events)
        return RecordedResponse(**self.model_dump(exclude={"events"}), events=events)


class _Answer(BaseModel):
    """The key `answer` in a file of version 2.

    `json`: a body that is JSON. `events`: the events of a stream. An event `data: {…}` with a JSON
    object or list is stored as JSON, any other event as a text. `timed_events`: the events, each
    with its time in milliseconds since the request arrived.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    status: int = Field(ge=200, le=599)
    headers: Annotated[dict[str, str], AfterValidator(_check_headers)]
    after_ms: _Milliseconds | None = None
    ending: Ending = "whole"
    json_body: Any = Field(default=None, alias="json")
    text: str | None = None
    base64: Annotated[str, AfterValidator(_check_base64)] | None = None
    events: list[Any] | None = None
    timed_events: list[tuple[_Milliseconds, Any]] | None = None

    @model_validator(mode="before")
    @classmethod
    def _check_bodies(cls, value: Any) -> Any:
        given = [key for key in _BODIES if isinstance(value, dict) and key in value]
        if len(given) > 1:
            raise ValueError(f"it has {' and '.join(given)}, but a response has only one of them")
        return value

    def response(self) -> RecordedResponse:
        timed = self.timed_events
        events = timed if self.events is None else [(None, event) for event in self.events]
        has_json = "json_body" in self.model_fields_set
        return RecordedResponse(
            status=self.status,
            headers=self.headers,
            after_ms=self.after_ms if timed is None else self.after_ms or 0,
            ending=self.ending,
            text=json_text(self.json_body) if has_json else self.text,
            base64=self.base64,
            events=None if events is None else tuple((ms, _event_text(e)) for ms, e in events),
        )


class _OldFile(BaseModel):
    """A file of version 1."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1
    recorded_at: str
    source: str
    request: _Request
    answer: _OldAnswer

    def recording(self) -> Recording:
        return Recording(self.source, self.request, self.answer.response())


class _File(BaseModel):
    """A file of version 2."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[2]
    source: str
    times: int = Field(default=1, ge=1, le=10**9)
    request: _Request
    answer: _Answer

    def recording(self) -> Recording:
        return Recording(self.source, self.request, self.answer.response(), self.times)


# ── bodies and events ─────────────────────────────────────────────────────────────────────────


def _answer_json(response: RecordedResponse) -> Json:
    answer: Json = {"status": response.status, "headers": response.headers}
    if response.after_ms is not None:
        answer["after_ms"] = response.after_ms
    if response.ending != "whole":
        answer["ending"] = response.ending
    if response.events is not None:
        items = [(ms or 0, _event_item(event)) for ms, event in response.events]
        key = "timed_events" if response.has_times else "events"
        answer[key] = items if response.has_times else [event for _, event in items]
    elif response.base64 is not None:
        answer["base64"] = response.base64
    else:
        text = response.text or ""
        value = _exact_json(text)
        answer |= {"text": text} if value is None else {"json": value}
    return answer


def _event_item(event: str) -> Any:
    """Returns an event as it is stored: the JSON of `data: {…}`, or else the event's text."""
    value = None
    if event.startswith(_DATA) and event.endswith(_END_OF_EVENT):
        value = _exact_json(event.removeprefix(_DATA).removesuffix(_END_OF_EVENT))
    return event if value is None else value


def _event_text(item: Any) -> str:
    return item if isinstance(item, str) else f"{_DATA}{json_text(item)}{_END_OF_EVENT}"


def _exact_json(text: str) -> dict[str, Any] | list[Any] | None:
    """Returns the JSON object or list in a text, or None.

    Returns None if the text cannot be restored from the value exactly, for example because the text
    contains spaces between values or the same key twice.
    """
    if not text.startswith(("{", "[")):
        return None
    try:
        value = json.loads(text, parse_constant=_refuse)
        _check_depth(value, _MAX_BODY_DEPTH)
        is_exact = json_text(value).encode() == text.encode()
    except (ValueError, RecursionError):
        return None
    return value if is_exact else None


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _to_json(value: Any, indent: int | None = None) -> str:
    """Returns the value as JSON.

    Does not escape non-ASCII characters, except lone surrogates, which UTF-8 cannot encode.
    """
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    return text.encode("utf-8", "backslashreplace").decode()


def _check_depth(value: Any, left: int) -> None:
    """Raises RecursionError if the JSON value has more than `left` nested levels."""
    if left == 0:
        raise RecursionError
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            _check_depth(item, left - 1)
