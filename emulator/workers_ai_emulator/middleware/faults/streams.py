"""Applies faults to streams: breaks a stream, or sends its event `[DONE]` twice or never."""

from __future__ import annotations

import asyncio
import re

from starlette.datastructures import Headers
from starlette.types import Message, Receive, Send

from workers_ai_emulator.wire.envelope import END_OF_STREAM
from workers_ai_emulator.wire.faults import Fault

# Matches the JSON before the completion text in an event, for all response formats.
_TEXT = re.compile(rb'"(response|content|text)":"|"value":\["')
_CHARACTER = "🍎".encode()


class BreakingStream:
    """Sends the beginning of a stream, and then breaks it.

    After the break, `receive` returns a disconnect. So the application cancels the generation and
    frees its slot.
    """

    def __init__(self, fault: Fault, receive: Receive, send: Send) -> None:
        self._fault = fault
        self._receive = receive
        self._send = send
        self._is_stream = False
        self._num_whole_events = 0
        self._broken = asyncio.Event()

    @property
    def is_broken(self) -> bool:
        return self._broken.is_set()

    async def receive(self) -> Message:
        receiving = asyncio.ensure_future(self._receive())
        breaking = asyncio.create_task(self._broken.wait())
        try:
            await asyncio.wait({receiving, breaking}, return_when=asyncio.FIRST_COMPLETED)
            return {"type": "http.disconnect"} if self.is_broken else receiving.result()
        finally:
            receiving.cancel()
            breaking.cancel()

    async def send(self, message: Message) -> None:
        if self.is_broken:
            return
        if message["type"] == "http.response.start":
            content_type = Headers(raw=message["headers"]).get("content-type", "")
            self._is_stream = content_type.startswith("text/event-stream")
        event = message.get("body", b"")
        if self._is_stream and event and self._is_due(event):
            self._broken.set()
            message = {**message, "body": _beginning(event, self._fault.fault)}
        await self._send(message)

    def _is_due(self, event: bytes) -> bool:
        """Counts the event, and returns whether the stream breaks in this event.

        The stream breaks in the event that follows `after_events` whole events. A stream with fewer
        events breaks in its last event, `[DONE]`.
        """
        self._num_whole_events += 1
        return self._num_whole_events > self._fault.after_events or event == END_OF_STREAM


def _beginning(event: bytes, name: str) -> bytes:
    """Returns the part of an event that the fault `name` sends before it breaks the stream."""
    if name == "cut-mid-event":
        return event[: len(event) // 2]
    return _up_to_half_a_character(event) if name == "cut-mid-utf8" else b""


def _up_to_half_a_character(event: bytes) -> bytes:
    """Returns the event up to and including the first byte of its first multi-byte character.

    If the event has no multi-byte character, inserts one at the start of the completion text.
    """
    if event.isascii():
        text = _TEXT.search(event)
        event = event[: text.end() if text else len(b"data: ")] + _CHARACTER
    return event[: next(i for i, byte in enumerate(event) if byte > 0x7F) + 1]


def repeat_end(send: Send, num_ends: int) -> Send:
    """Returns an ASGI `send` that sends the event `[DONE]` `num_ends` times instead of once."""

    async def send_ends(message: Message) -> None:
        is_end = message.get("body") == END_OF_STREAM
        for _ in range(num_ends if is_end else 1):
            await send(message)

    return send_ends
