"""A recording, which contains an inference call and its response, and the format of its file."""

from __future__ import annotations

import binascii
import json
from base64 import b64decode
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from workers_ai_emulator.middleware.recordings.request import RecordedRequest
from workers_ai_emulator.wire.validation import error_lines

Ending = Literal["whole", "client left", "broken off"]

_EMPTY_EVENTS_AT_END = "[]\n  }\n}"


class RecordedResponse(BaseModel):
    """The response in a recording. Times are in milliseconds since the request arrived.

    `after_ms`: the time when the response began. `events`: the time and the text of each event of a
    stream. Exactly one of `text`, `base64` and `events` is set. `ending`: if it is not `whole`, the
    replayed response breaks off at the end of the recorded part.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    status: int = Field(ge=200, le=599)
    headers: dict[str, str]
    after_ms: int = Field(ge=0)
    ending: Ending = "whole"
    text: str | None = None
    base64: str | None = None
    events: list[tuple[int, str]] | None = None

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
        """The whole body of a response that is not a stream."""
        return (self.text or "").encode() or b64decode(self.base64 or "")

    @property
    def event_bytes(self) -> Iterator[tuple[int, bytes]]:
        """The time and the bytes of each event of a stream.

        Lone surrogates in the text of an event represent bytes that are not valid UTF-8.
        """
        for ms, event in self.events or ():
            yield ms, event.encode("utf-8", "surrogateescape")


class Recording(BaseModel):
    """An inference call and its response. `source` names the backend or service that responded."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1
    recorded_at: str
    source: str
    request: dict[str, Any]
    answer: RecordedResponse

    @classmethod
    def parse(cls, data: bytes) -> Recording:
        """Parses the content of a recording's file. Raises ValueError if the content is invalid."""
        try:
            recording = cls.model_validate(json.loads(data))
        except ValidationError as error:
            raise ValueError("; ".join(error_lines(error))) from error
        except RecursionError as error:
            raise ValueError("it is nested too deep") from error
        if "path" not in recording.request:
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
    """Returns the value as JSON. Escapes only lone surrogates, because UTF-8 cannot encode them."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    return text.encode("utf-8", "backslashreplace").decode()
