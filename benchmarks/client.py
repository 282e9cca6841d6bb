"""A streaming client that takes little processor time from the server on the same machine.

During a measurement, the client only stores the received bytes and the times at which they
arrived. It parses the bytes after the measurement.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import httptools

from benchmarks.conditions import MODEL_NAME
from benchmarks.servers import Server

_LIMIT_S = 600
_EVENT_START = b"data: {"
# Parameters of requests with a temperature above 0. Without `min_p`, llama-server would use 0.05;
# the emulator does not support this parameter.
_SAMPLING = {"top_k": 40, "top_p": 0.95, "min_p": 0}


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """An OpenAI chat completion request that streams.

    `seed` is sent only if the temperature is above 0.
    """

    prompt: str
    max_tokens: int
    system_prompt: str | None = None
    temperature: float = 0.0
    seed: int = 1
    model: str = MODEL_NAME

    def body(self) -> bytes:
        system = [{"role": "system", "content": self.system_prompt}] if self.system_prompt else []
        sampling = _SAMPLING | {"seed": self.seed} if self.temperature > 0 else {}
        return json.dumps(
            {
                "model": self.model,
                "messages": [*system, {"role": "user", "content": self.prompt}],
                "max_tokens": self.max_tokens,
                "temperature": self.temperature,
                **sampling,
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
        """Parses the bytes into a completion, with the arrival time of each event.

        An event has arrived when its last byte has been read. One read may contain several events,
        and an event may take several reads.
        """
        completion = Completion(self.request, self.sent_s)
        for received_s, line in self._lines():
            if line.startswith(_EVENT_START):
                completion.add(json.loads(line.removeprefix(b"data: ")), received_s)
        return completion

    def _lines(self) -> Iterator[tuple[float, bytes]]:
        """Yields each complete line of the response's body, and the time at which it arrived."""
        body = _Body()
        parser = httptools.HttpResponseParser(body)
        for received_s, data in self.reads:
            parser.feed_data(data)
            *lines, rest = bytes(body.data).split(b"\n")
            body.data[:] = rest
            yield from ((received_s, line) for line in lines)


class _Body:
    """Receives a response's body from the HTTP parser, which removes the chunked encoding.

    `data`: the bytes that have been received and not yet been removed.
    """

    def __init__(self) -> None:
        self.data = bytearray()

    def on_body(self, data: bytes) -> None:
        self.data += data


@dataclass(slots=True)
class Completion:
    """A completion's text, and the times at which its events arrived at the client.

    `arrivals`: the times of the events that contain text. `ended_s`: the time of the last event
    with text or with the finish reason.
    """

    request: ChatRequest
    sent_s: float
    text: str = ""
    arrivals: list[float] = field(default_factory=list)
    ended_s: float = 0.0
    num_reported_tokens: int | None = None
    is_finished: bool = False

    @property
    def num_tokens(self) -> int:
        """The number of completion tokens in the server's usage event.

        Without a usage event, the number of events with text. An event can have the text of several
        tokens, and a token can have no text.
        """
        return self.num_reported_tokens or len(self.arrivals)

    @property
    def ttft_s(self) -> float:
        return self.arrivals[0] - self.sent_s

    @property
    def num_later_tokens(self) -> int:
        """The number of tokens after the first one."""
        return max(self.num_tokens - 1, 0)

    @property
    def after_first_s(self) -> float:
        """The seconds from the first event with text to the end of the completion."""
        return self.ended_s - self.arrivals[0]

    @property
    def gaps(self) -> list[tuple[float, float]]:
        """Pairs of arrival times: of each event with text, and of the next event with text."""
        return list(pairwise(self.arrivals))

    def add(self, event: dict[str, Any], received_s: float) -> None:
        """Adds the text and the usage of one event, which arrived at `received_s`."""
        if usage := event.get("usage"):
            self.num_reported_tokens = usage["completion_tokens"]
        for choice in event.get("choices", ()):
            self.ended_s = received_s
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
