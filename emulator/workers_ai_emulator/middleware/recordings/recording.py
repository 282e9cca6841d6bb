"""A recording: an inference call and its response. `recording_file.py` defines the file format."""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from workers_ai_emulator.middleware.recordings.request import Json, RecordedRequest

Ending = Literal["whole", "client left", "broken off"]
# The time of an event in milliseconds since the request arrived, or None if it was not recorded,
# and the text of the event.
Event = tuple[int | None, str]

# Matches surrogates that represent no byte. Python decodes an invalid byte to a surrogate from
# U+DC80 to U+DCFF ("surrogateescape"); this pattern matches all other surrogates.
_NO_BYTES = re.compile("[\ud800-\udc7f\udd00-\udfff]")


@dataclass(frozen=True, slots=True)
class RecordedResponse:
    """The response in a recording. Times are in milliseconds since the request arrived.

    `after_ms`: the time when the response began, or None if it was not recorded. At most one of
    `text`, `base64` and `events` is set: the body, or the events of a stream. `ending`: how the
    response ended. If it is not `whole`, the replayed response breaks off too, after the recorded
    part.
    """

    status: int
    headers: dict[str, str]
    after_ms: int | None = None
    ending: Ending = "whole"
    text: str | None = None
    base64: str | None = None
    events: tuple[Event, ...] | None = None

    @property
    def body(self) -> bytes:
        """The body of the response. Empty for a stream, whose body is in `events`."""
        return _to_bytes(self.text or "") or b64decode(self.base64 or "")

    @property
    def event_bytes(self) -> Iterator[tuple[int, bytes]]:
        """The time and the bytes of each event of a stream. The time is 0 if it was not recorded.

        Lone surrogates in the text of an event represent bytes that are not valid UTF-8.
        """
        for ms, event in self.events or ():
            yield ms or 0, _to_bytes(event)

    @property
    def has_times(self) -> bool:
        return self.after_ms is not None

    def without_times(self) -> RecordedResponse:
        """Returns the response without the times of its beginning and of its events."""
        events = self.events and tuple((None, event) for _, event in self.events)
        return replace(self, after_ms=None, events=events)


@dataclass(frozen=True, slots=True)
class Recording:
    """An inference call and its response.

    `source`: the name of the backend or service that responded. `times`: how many consecutive equal
    calls got this response.
    """

    source: str
    request: Json
    answer: RecordedResponse
    times: int = 1

    @property
    def recorded_request(self) -> RecordedRequest:
        return RecordedRequest(self.request)


def _to_bytes(text: str) -> bytes:
    """Encodes a recorded text in UTF-8.

    A surrogate from U+DC80 to U+DCFF becomes the invalid byte that it represents. Any other lone
    surrogate becomes U+FFFD.
    """
    return _NO_BYTES.sub("\ufffd", text).encode("utf-8", "surrogateescape")
