"""Tests that the event that ends a stream is recognized, however the stream's bytes are divided."""

from __future__ import annotations

import pytest
from workers_ai_emulator.middleware.stream_end import LastEvent

DELTA = b'event: content_block_delta\ndata: {"text":"event: message_stop"}\n\n'
ENDS = [
    b"data: [DONE]\n\n",
    b"data: [DONE]",
    b'event: message_stop\ndata: {"type":"message_stop"}\n\n',
    b'event: response.completed\ndata: {"response":{"text":"' + b"a" * 300 + b'"}}\n\n',
    b'event: response.incomplete\ndata: {"response":{}}\n\n',
]
OTHERS = [
    b"",
    DELTA,
    b'event: message_stop\ndata: {"type":',
    b'event: response.completed\ndata: {"response":{"text":"' + b"a" * 300,
    b'event: response.completed.not\ndata: {"response":{}}\n\n',
    b'data: [DONE]\n\nevent: response.created\ndata: {"response":{}}\n\n',
]


@pytest.mark.parametrize("size", [1, 2, 7, 33, 1000])
@pytest.mark.parametrize(
    ("end", "is_end"), [*((end, True) for end in ENDS), *((other, False) for other in OTHERS)]
)
def test_the_last_event_decides_whether_a_stream_is_complete(
    end: bytes, is_end: bool, size: int
) -> None:
    stream = DELTA + DELTA + end
    last_event = LastEvent()
    for start in range(0, len(stream), size):
        last_event.feed(stream[start : start + size])
    assert last_event.ends_stream is is_end
