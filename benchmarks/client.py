"""A streaming client that takes little processor time from the server on the same machine.

During a measurement, the client only stores the received bytes and the times at which they
arrived. It parses the bytes after the measurement.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from bisect import bisect_left
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Any

from benchmarks.conditions import MODEL_NAME
from benchmarks.servers import Server

_LIMIT_S = 600
# Matches an event in the bytes of a response with chunked encoding. The header of a chunk is never
# inside an event, because all measured servers send each event as one chunk.
_EVENT = re.compile(rb"^data: (\{.*\})$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """An OpenAI chat completion request that streams and has temperature 0."""

    prompt: str
    max_tokens: int
    system_prompt: str | None = None

    def body(self) -> bytes:
        system = [{"role": "system", "content": self.system_prompt}] if self.system_prompt else []
        return json.dumps(
            {
                "model": MODEL_NAME,
                "messages": [*system, {"role": "user", "content": self.prompt}],
                "max_tokens": self.max_tokens,
                "temperature": 0,
                "stream": True,
                "stream_options": {"include_usage": True},
            }
        ).encode()


@dataclass(slots=True)
class TimedResponse:
    """The bytes of a response. `reads`: the time and the bytes of each read from the socket."""

    request: ChatRequest
    sent_s: float = 0.0
    reads: list[tuple[float, bytes]] = field(default_factory=list)

    def completion(self) -> Completion:
        """Parses the bytes into a completion, with the arrival time of each event."""
        raw = b"".join(data for _, data in self.reads)
        ends = list(accumulate(len(data) for _, data in self.reads))
        completion = Completion(self.request, self.sent_s)
        for match in _EVENT.finditer(raw):
            received_s = self.reads[bisect_left(ends, match.end())][0]
            completion.add(json.loads(match[1]), received_s)
        return completion


@dataclass(slots=True)
class Completion:
    """A completion's text, and the times at which its events arrived at the client.

    `arrivals`: the times of the events that contain text.
    """

    request: ChatRequest
    sent_s: float
    text: str = ""
    arrivals: list[float] = field(default_factory=list)
    num_reported_tokens: int | None = None
    is_finished: bool = False

    @property
    def num_tokens(self) -> int:
        """The number of completion tokens in the server's usage event.

        Without a usage event, the number of events with text.
        """
        return self.num_reported_tokens or len(self.arrivals)

    @property
    def ttft_s(self) -> float:
        return self.arrivals[0] - self.sent_s

    @property
    def gaps(self) -> list[tuple[float, float]]:
        """Pairs of arrival times: of each event with text, and of the next event with text."""
        return list(pairwise(self.arrivals))

    def add(self, event: dict[str, Any], received_s: float) -> None:
        """Adds the text and the usage of one event, which arrived at `received_s`."""
        if usage := event.get("usage"):
            self.num_reported_tokens = usage["completion_tokens"]
        for choice in event.get("choices", ()):
            if content := choice["delta"].get("content"):
                self.text += content
                self.arrivals.append(received_s)
            self.is_finished |= choice.get("finish_reason") is not None


async def send(server: Server, response: TimedResponse) -> None:
    """Sends the request of `response`, and stores the received bytes in `response`.

    Returns when the server closes the connection, on a network error, or after 10 minutes. A
    response without a finish reason counts as an error in the report.
    """
    body = response.request.body()
    head = (
        f"POST {server.chat_path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode()
    response.sent_s = time.perf_counter()
    with suppress(OSError):  # OSError includes TimeoutError
        async with asyncio.timeout(_LIMIT_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            try:
                writer.write(head + body)
                while data := await reader.read(2**16):
                    response.reads.append((time.perf_counter(), data))
            finally:
                writer.close()
