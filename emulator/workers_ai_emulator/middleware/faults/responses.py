"""Applies faults to responses: breaks a response, or sends its event `[DONE]` twice or never."""

from __future__ import annotations

import asyncio
import re

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import Message, Receive, Send

from workers_ai_emulator.wire.envelope import END_OF_STREAM
from workers_ai_emulator.wire.faults import BREAKS, Fault

_NUM_ENDS = {"no-done": 0, "double-done": 2}  # how many `[DONE]` events the fault sends

# Matches the JSON before the completion text in an event, for all response formats.
_TEXT = re.compile(rb'"(response|content|text)":"|"value":\["')
_CHARACTER = "🍎".encode()
_DATA = b"data: "  # precedes the JSON in an event


class Cancellation:
    """Cancels a call: an ASGI `receive` that returns a disconnect although the client is connected.

    Because of the disconnect, the application cancels the generation, which frees its slot.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._is_cancelled = asyncio.Event()

    @property
    def is_cancelled(self) -> bool:
        return self._is_cancelled.is_set()

    def cancel(self) -> None:
        self._is_cancelled.set()

    async def receive(self) -> Message:
        receiving = asyncio.ensure_future(self._receive())
        cancelling = asyncio.create_task(self._is_cancelled.wait())
        try:
            await asyncio.wait({receiving, cancelling}, return_when=asyncio.FIRST_COMPLETED)
            return {"type": "http.disconnect"} if self.is_cancelled else receiving.result()
        finally:
            receiving.cancel()
            cancelling.cancel()


def changed(fault: Fault, send: Send, cancellation: Cancellation) -> Send:
    """Returns an ASGI `send` that changes the application's response as the fault describes.

    If the fault breaks the response, calls `cancellation.cancel` at the break. The application then
    ends without completing the response, and uvicorn closes the connection.
    """
    name = fault.fault
    if name in BREAKS or name == "cut-body":
        return _Break(fault, send, cancellation).send
    if name in _NUM_ENDS:
        return _repeat_end(send, _NUM_ENDS[name])
    return _BrokenJson(fault, send).send if name == "broken-json" else send


class _Events:
    """Finds the event in which a fault breaks a stream.

    This is the event that follows `after_events` whole events. In a stream with fewer events, it is
    the last event, `[DONE]`.
    """

    def __init__(self, after_events: int) -> None:
        self._after_events = after_events
        self._num_events = 0

    def is_due(self, event: bytes) -> bool:
        """Counts the event, and returns whether the fault breaks the stream in this event."""
        self._num_events += 1
        return self._num_events > self._after_events or event == END_OF_STREAM


class _Break:
    """Sends the beginning of a response, and then cancels the call.

    Breaks a stream in one of its events. The fault `cut-body` also breaks other responses: it sends
    the first half of their body.
    """

    def __init__(self, fault: Fault, send: Send, cancellation: Cancellation) -> None:
        self._name = fault.fault
        self._events = _Events(fault.after_events)
        self._cancellation = cancellation
        self._is_stream = False
        self._send = send

    async def send(self, message: Message) -> None:
        if self._cancellation.is_cancelled:
            return
        if message["type"] == "http.response.start":
            self._is_stream = is_event_stream(message)
        elif (body := message.get("body", b"")) and self._is_due(body):
            self._cancellation.cancel()
            message = {**message, "body": _beginning(body, self._name), "more_body": True}
        await self._send(message)

    def _is_due(self, body: bytes) -> bool:
        return self._events.is_due(body) if self._is_stream else self._name == "cut-body"


class _BrokenJson:
    """Sends a complete response whose body is not valid JSON: the second half of it is missing.

    In a stream, the JSON of one event is broken, and the stream then goes on.
    """

    def __init__(self, fault: Fault, send: Send) -> None:
        self._events = _Events(fault.after_events)
        self._start: Message = {}
        self._body = b""
        self._is_broken = False
        self._send = send

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start = message
            if is_event_stream(message):
                await self._send(message)
        elif is_event_stream(self._start):
            await self._send({**message, "body": self._event(message.get("body", b""))})
        else:
            await self._send_half(message)

    def _event(self, event: bytes) -> bytes:
        if not event or self._is_broken or not self._events.is_due(event):
            return event
        self._is_broken = True
        start = event.find(_DATA) + len(_DATA)
        return event[: (start + len(event)) // 2] + b"\n\n"

    async def _send_half(self, message: Message) -> None:
        """Stores the parts of the body. After the last part, sends the first half of the body."""
        self._body += message.get("body", b"")
        if message.get("more_body", False):
            return
        half = self._body[: len(self._body) // 2]
        MutableHeaders(scope=self._start)["content-length"] = str(len(half))
        await self._send(self._start)
        await self._send({**message, "body": half})


def is_event_stream(start: Message) -> bool:
    """Returns whether a response is a stream of events. `start`: its first ASGI message."""
    content_type = Headers(raw=start["headers"]).get("content-type", "")
    return content_type.startswith("text/event-stream")


def _beginning(body: bytes, name: str) -> bytes:
    """Returns the part of an event or of a body that the fault `name` sends before the break."""
    match name:
        case "cut-mid-event" | "cut-body":
            return body[: len(body) // 2]
        case "cut-mid-utf8":
            return _up_to_half_a_character(body)
    return b""


def _up_to_half_a_character(event: bytes) -> bytes:
    """Returns the event up to and including the first byte of its first multi-byte character.

    If the event has no multi-byte character, inserts one at the start of the completion text.
    """
    if event.isascii():
        text = _TEXT.search(event)
        event = event[: text.end() if text else len(_DATA)] + _CHARACTER
    return event[: next(i for i, byte in enumerate(event) if byte > 0x7F) + 1]


def _repeat_end(send: Send, num_ends: int) -> Send:
    """Returns an ASGI `send` that sends the event `[DONE]` `num_ends` times instead of once."""

    async def send_ends(message: Message) -> None:
        is_end = message.get("body") == END_OF_STREAM
        for _ in range(num_ends if is_end else 1):
            await send(message)

    return send_ends
