"""Copies a response for its recording while it is sent, with the times of a stream's events."""

from __future__ import annotations

import json
import time
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from starlette.datastructures import Headers
from starlette.types import Message

from workers_ai_emulator.middleware.recordings.call_errors import is_call_error
from workers_ai_emulator.middleware.recordings.recording import Ending, RecordedResponse
from workers_ai_emulator.middleware.recordings.request import Json, text_or_base64
from workers_ai_emulator.middleware.stream_end import ends_stream
from workers_ai_emulator.wire.body import GZIP_MAGIC
from workers_ai_emulator.wire.envelope import END_OF_STREAM
from workers_ai_emulator.wire.redaction import Redaction

_MAX_BYTES = 64 * 2**20
_END_OF_EVENT = b"\n\n"
_HEADERS = ("content-type", "cache-control", "retry-after", "x-accel-buffering")
_HEADER_PREFIXES = ("cf-ai-", "cf-aig-", "x-emulator-model")

_Place = tuple[str | int, ...]  # the keys and indices that lead to a value in JSON


class ResponseCapture:
    """Copies one response for its recording, from the ASGI messages passed to `feed`.

    Discards the body if it is larger than 64 MiB.
    """

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._status = 0
        self._headers = Headers()
        self._after_ms = 0
        self._size = 0
        self._parts: list[bytes] = []  # the parts of the body, if it is not a stream
        self._rest = b""  # the beginning of an event whose end has not been sent yet
        self._events: list[tuple[int, str]] = []
        self._has_last_message = False

    @property
    def has_begun(self) -> bool:
        return self._status != 0

    @property
    def is_stream(self) -> bool:
        return self._headers.get("content-type", "").startswith("text/event-stream")

    @property
    def is_over(self) -> bool:
        """Whether the last message of the response, or the event `[DONE]`, was passed to `feed`."""
        # Other events that end a stream do not count, because `[DONE]` may follow them.
        return self._has_last_message or self._last_event == END_OF_STREAM

    def feed(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            self._headers = Headers(raw=list(message["headers"]))
            self._after_ms = self._elapsed_ms()
        elif message["type"] == "http.response.body":
            self._add(message.get("body", b""))
            self._has_last_message = not message.get("more_body", False)

    def ending(self, *, is_disconnected: bool, is_cancelled: bool) -> Ending:
        """Returns how the response ended: `whole`, `client left` or `broken off`.

        A response is `whole` if the event that ends its stream was sent. It is also `whole` if its
        last message was sent, the client has not disconnected, and the generation was not
        cancelled. Any other response is `client left` if the client has disconnected, otherwise
        `broken off`.
        """
        if ends_stream(self._last_event) or (
            self._has_last_message and not is_disconnected and not is_cancelled
        ):
            return "whole"
        return "client left" if is_disconnected else "broken off"

    def reason_not_to_record(self, ending: Ending) -> str | None:
        """Returns the reason why the response cannot be recorded, or None if it can."""
        if ending != "whole" and not self.is_stream:
            return "the client disconnected" if ending == "client left" else "it broke off"
        if self._size > _MAX_BYTES:
            return f"it is larger than {_MAX_BYTES // 2**20} MiB"
        if self._headers.get("content-encoding", "identity") != "identity":
            return "it is compressed, so credentials in it cannot be found"
        if self._status >= 400 and not self._is_error_about_call:
            return f"{self._status} is not a response of a model"
        return None

    def response(self, ending: Ending, redaction: Redaction) -> RecordedResponse | None:
        """Returns the copied response, or None if it contains a secret that cannot be redacted."""
        content = self._redacted_events(redaction) if self.is_stream else self._redacted(redaction)
        if content is None:
            return None
        return RecordedResponse(
            status=self._status,
            headers={
                name: redaction.text(value)
                for name, value in self._headers.items()
                if is_response_header(name)
            },
            after_ms=self._after_ms,
            ending=ending,
            **content,
        )

    @property
    def _is_error_about_call(self) -> bool:
        return "cf-ai-req-id" in self._headers or is_call_error(b"".join(self._parts))

    @property
    def _last_event(self) -> bytes:
        return self._events[-1][1].encode("utf-8", "surrogateescape") if self._events else b""

    def _add(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > _MAX_BYTES:
            self._parts, self._events, self._rest = [], [], b""
        elif self.is_stream:
            *events, self._rest = (self._rest + data).split(_END_OF_EVENT)
            now_ms = self._elapsed_ms()
            self._events += [(now_ms, _to_text(event + _END_OF_EVENT)) for event in events]
        else:
            self._parts.append(data)

    def _redacted(self, redaction: Redaction) -> Json | None:
        body = b"".join(self._parts)
        if body.startswith(GZIP_MAGIC) and redaction.is_needed(_unpacked(body)):
            return None
        return text_or_base64(body, redaction)

    def _redacted_events(self, redaction: Redaction) -> Json | None:
        rest = [(self._elapsed_ms(), _to_text(self._rest))] if self._rest else []
        events = [(ms, redaction.text(event)) for ms, event in self._events + rest]
        # If a model repeats a secret, each event may contain only a part of the secret. So the
        # events' joined texts are searched too. If they contain a secret, the response is not
        # recorded.
        if any(map(redaction.is_needed, _streamed_texts(event for _, event in events))):
            return None
        return {"events": tuple(events)}

    def _elapsed_ms(self) -> int:
        return round((time.monotonic() - self._start) * 1000)


def is_response_header(name: str) -> bool:
    """Returns whether a recorded or forwarded response keeps a header with this name.

    Headers that describe the server or the connection are dropped.
    """
    return name in _HEADERS or name.startswith(_HEADER_PREFIXES)


def _to_text(event: bytes) -> str:
    return event.decode("utf-8", "surrogateescape")


def _unpacked(body: bytes) -> str:
    return zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(body, _MAX_BYTES).decode("latin-1")


def _streamed_texts(events: Iterable[str]) -> Iterator[str]:
    """Returns the texts that a stream sends in pieces, for example the whole completion.

    For each place in the events' JSON, such as the key `response`, joins the strings of all events.
    """
    texts: defaultdict[_Place, list[str]] = defaultdict(list)
    for event in events:
        try:
            value = json.loads(event.removeprefix("data:"))
        except (ValueError, RecursionError):
            continue  # the event is `[DONE]` or not JSON
        for place, text in _strings(value):
            texts[place].append(text)
    return map("".join, texts.values())


def _strings(value: Any, place: _Place = ()) -> Iterator[tuple[_Place, str]]:
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _strings(item, (*place, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _strings(item, (*place, index))
