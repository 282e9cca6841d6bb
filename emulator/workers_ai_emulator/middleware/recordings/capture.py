"""Takes down an answer while it goes out: status, headers, and which bytes came when."""

from __future__ import annotations

import json
import time
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from starlette.datastructures import Headers
from starlette.types import Message

from workers_ai_emulator.middleware.recordings.recording import Ending, RecordedAnswer
from workers_ai_emulator.middleware.recordings.request import Json, text_or_base64
from workers_ai_emulator.routes.generation import GZIP_MAGIC
from workers_ai_emulator.wire.envelope import END_OF_STREAM
from workers_ai_emulator.wire.redaction import Redaction

_MAX_BYTES = 64 * 2**20
_END_OF_EVENT = b"\n\n"
_HEADERS = ("content-type", "cache-control", "retry-after", "x-accel-buffering")
_HEADER_PREFIXES = ("cf-ai-", "cf-aig-", "x-emulator-model")

_Place = tuple[str | int, ...]  # keys and indices that lead to a value in JSON


class ResponseCapture:
    """Holds one answer, at most 64 MiB of it; `feed` gets every ASGI message."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._status = 0
        self._headers = Headers()
        self._after_ms = 0
        self._size = 0
        self._parts: list[bytes] = []  # of a body
        self._rest = b""  # the start of an event that has not ended yet
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
        """Nothing of it is still to come that matters: some clients leave at `[DONE]`."""
        return self._has_last_message or self._is_done

    def feed(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            self._headers = Headers(raw=list(message["headers"]))
            self._after_ms = self._elapsed_ms()
        elif message["type"] == "http.response.body":
            self._take(message.get("body", b""))
            self._has_last_message = not message.get("more_body", False)

    def ending(self, *, has_client_left: bool, is_cancelled: bool) -> Ending:
        """How it ended; `is_cancelled`: the generation behind it was."""
        if self._is_done or (self._has_last_message and not has_client_left and not is_cancelled):
            return "whole"
        return "client left" if has_client_left else "broken off"

    def objection(self, ending: Ending) -> str | None:
        """Why this is nothing to record, if so."""
        if ending != "whole" and not self.is_stream:
            return "the client left" if ending == "client left" else "it broke off"
        if self._size > _MAX_BYTES:
            return f"it is larger than {_MAX_BYTES // 2**20} MiB"
        if self._headers.get("content-encoding", "identity") != "identity":
            return "it is compressed, so nobody can tell what it holds"
        if self._status >= 400 and "cf-ai-req-id" not in self._headers:
            # Seen on the wire: whatever reached a model has one. The rest is about who calls.
            return f"{self._status} is no answer of a model"
        return None

    def answer(self, ending: Ending, redaction: Redaction) -> RecordedAnswer | None:
        """What to store; None if a secret is in it that cannot be taken out."""
        content = self._redacted_events(redaction) if self.is_stream else self._redacted(redaction)
        if content is None:
            return None
        return RecordedAnswer(
            status=self._status,
            headers={
                name: redaction.text(value)
                for name, value in self._headers.items()
                if is_own_header(name)
            },
            after_ms=self._after_ms,
            ending=ending,
            **content,
        )

    @property
    def _is_done(self) -> bool:
        return bool(self._events) and self._events[-1][1] == END_OF_STREAM.decode()

    def _take(self, data: bytes) -> None:
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
        # A model that repeats a secret may do so in pieces, each in an event of its own.
        if any(map(redaction.is_needed, _streamed_texts(event for _, event in events))):
            return None
        return {"events": events}

    def _elapsed_ms(self) -> int:
        return round((time.monotonic() - self._start) * 1000)


def is_own_header(name: str) -> bool:
    """Whether a header belongs to an answer, not to the server that sends it."""
    return name in _HEADERS or name.startswith(_HEADER_PREFIXES)


def _to_text(event: bytes) -> str:
    return event.decode("utf-8", "surrogateescape")


def _unpacked(body: bytes) -> str:
    return zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(body, _MAX_BYTES).decode("latin-1")


def _streamed_texts(events: Iterable[str]) -> Iterator[str]:
    """The texts that come in pieces: all strings of the same place in the events, put together."""
    texts: defaultdict[_Place, list[str]] = defaultdict(list)
    for event in events:
        try:
            value = json.loads(event.removeprefix("data:"))
        except (ValueError, RecursionError):
            continue  # the end, or nothing that has text in pieces
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
