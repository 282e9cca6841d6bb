"""A streaming client that leaves the processor to the server.

It only notes when bytes come; what they say is read when nobody measures any more.
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
# Every server writes an event whole into one HTTP chunk.
_EVENT = re.compile(rb"^data: (\{.*\})$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked: streamed, at temperature 0."""

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
class Recording:
    """The bytes of an answer as they come in, each read with its time."""

    question: Question
    sent_s: float = 0.0
    reads: list[tuple[float, bytes]] = field(default_factory=list)

    def answer(self) -> Answer:
        """What the bytes say."""
        raw = b"".join(data for _, data in self.reads)
        ends = list(accumulate(len(data) for _, data in self.reads))
        answer = Answer(self.question, self.sent_s)
        for match in _EVENT.finditer(raw):
            came_s = self.reads[bisect_left(ends, match.end())][0]
            answer.add(json.loads(match[1]), came_s)
        return answer


@dataclass(slots=True)
class Answer:
    """An answer: its text, and when each token's text came, in the client's time."""

    question: Question
    sent_s: float
    text: str = ""
    arrivals: list[float] = field(default_factory=list)
    num_reported_tokens: int | None = None
    is_finished: bool = False

    @property
    def num_tokens(self) -> int:
        """As the server says, or else the events that had text."""
        return self.num_reported_tokens or len(self.arrivals)

    @property
    def ttft_s(self) -> float:
        return self.arrivals[0] - self.sent_s

    @property
    def gaps(self) -> list[tuple[float, float]]:
        """The times between tokens, each as its start and end."""
        return list(pairwise(self.arrivals))

    def add(self, event: dict[str, Any], came_s: float) -> None:
        if usage := event.get("usage"):
            self.num_reported_tokens = usage["completion_tokens"]
        for choice in event.get("choices", ()):
            if content := choice["delta"].get("content"):
                self.text += content
                self.arrivals.append(came_s)
            self.is_finished |= choice.get("finish_reason") is not None


async def ask(server: Server, recording: Recording) -> None:
    """Send the question and take in the answer until the server closes, or breaks off."""
    body = recording.question.body()
    head = (
        f"POST {server.chat_path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode()
    recording.sent_s = time.perf_counter()
    with suppress(OSError):  # a timeout is one; an answer that lacks its end is an error
        async with asyncio.timeout(_LIMIT_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            try:
                writer.write(head + body)
                while data := await reader.read(2**16):
                    recording.reads.append((time.perf_counter(), data))
            finally:
                writer.close()
