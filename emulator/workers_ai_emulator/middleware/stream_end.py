"""Recognizes the event that ends a stream.

Streams of Workers AI end with the event `[DONE]`. The service also runs models of other providers,
whose streams can have other last events. A response of the Responses API has reached `max_tokens`
if its last event is `response.incomplete`.
"""

from __future__ import annotations

_DONE = b"data: [DONE]"
_NAMED_EVENTS = (
    b"event: message_stop\n",
    b"event: response.completed\n",
    b"event: response.incomplete\n",
)
_END_OF_EVENT = b"\n\n"
_HEAD_BYTES = 32  # of an event: enough for the first line of an event that ends a stream


def ends_stream(event: bytes) -> bool:
    """Returns whether an event ends its stream. False if it is incomplete, except for `[DONE]`."""
    return event.startswith(_DONE) or (
        event.startswith(_NAMED_EVENTS) and event.endswith(_END_OF_EVENT)
    )


class LastEvent:
    """Finds the last event of a stream whose bytes are passed to `feed`, divided in any way."""

    def __init__(self) -> None:
        self._event = b""  # the last event; only the head and the line breaks of a long event

    def feed(self, data: bytes) -> None:
        rest = self._event + data
        event = rest[rest.rstrip(b"\n").rfind(_END_OF_EVENT) + 1 :].lstrip(b"\n")
        if len(event) > 2 * _HEAD_BYTES:
            num_breaks = min(2, len(event) - len(event.rstrip(b"\n")))
            event = event[:_HEAD_BYTES].rstrip(b"\n") + b"\n" * num_breaks
        self._event = event

    @property
    def ends_stream(self) -> bool:
        return ends_stream(self._event)
