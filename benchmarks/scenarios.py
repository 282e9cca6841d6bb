"""What the clients do."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from benchmarks import prompts
from benchmarks.client import Answer, Question, Recording, ask
from benchmarks.measurements import Measurement
from benchmarks.servers import Server


@dataclass(frozen=True, slots=True)
class ClosedLoop:
    """Clients that each ask again as soon as they have been answered; the slots they are given."""

    num_clients: int
    num_requests: int  # of each client
    max_tokens: int
    system_prompt: str | None = None
    num_slots: int = 16
    context_length: int = 1024

    @property
    def needs_concurrency(self) -> bool:
        """With so many clients, a server that computes one request at a time takes minutes."""
        return self.num_clients > 4

    @property
    def name(self) -> str:
        clients = f"{self.num_clients} client{'s' if self.num_clients > 1 else ''}"
        return clients + (", shared system prompt of 200 tokens" if self.system_prompt else "")

    @property
    def description(self) -> str:
        return f"{self.name}, {self.max_tokens} new tokens, {self.num_requests} times"

    async def run(self, server: Server) -> Measurement:
        recordings = await asyncio.gather(
            *(self._be_client(server, number) for number in range(self.num_clients))
        )
        answers = [recording.answer() for of_client in recordings for recording in of_client]
        spoken = [answer for answer in answers if answer.arrivals]
        start_s = min(answer.sent_s for answer in answers)
        end_s = max((answer.arrivals[-1] for answer in spoken), default=start_s)
        num_tokens = sum(answer.num_tokens for answer in answers)
        return Measurement(
            tokens_per_s=num_tokens / (end_s - start_s) if spoken else 0.0,
            ttfts=[answer.ttft_s for answer in spoken],
            gaps=[end - start for answer in spoken for start, end in answer.gaps],
            peak_memory=server.peak_memory,
            answers=answers,
        )

    async def _be_client(self, server: Server, number: int) -> list[Recording]:
        recordings = [Recording(self._question(number, i)) for i in range(self.num_requests)]
        for recording in recordings:
            await ask(server, recording)
        return recordings

    def _question(self, client: int, request: int) -> Question:
        """Clients move on by half their number: most questions come twice, from two of them."""
        index = client + request * max(self.num_clients // 2, 1)
        return Question(prompts.PROMPTS[index], self.max_tokens, self.system_prompt)


@dataclass(frozen=True, slots=True)
class LongArrival:
    """Streams run when a long prompt comes: how they fare until its first token."""

    num_streams: int = 4
    num_tokens_before: int = 8  # of each stream
    max_tokens: int = 1024
    num_slots: int = 5
    context_length: int = 4096
    needs_concurrency: bool = True

    @property
    def name(self) -> str:
        return f"{self.num_streams} streams while a prompt of 2,000 tokens is evaluated"

    @property
    def description(self) -> str:
        return f"{self.name}: tokens/s and gaps of the streams, TTFT of the prompt"

    async def run(self, server: Server) -> Measurement:
        streams = [
            Recording(Question(prompt, self.max_tokens))
            for prompt in prompts.PROMPTS[: self.num_streams]
        ]
        tasks = [asyncio.create_task(ask(server, stream)) for stream in streams]
        await self._until_running(streams, tasks)
        arrival = Recording(Question(prompts.LONG_PROMPT, max_tokens=4))
        await ask(server, arrival)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return self._measure(server, [stream.answer() for stream in streams], arrival.answer())

    async def _until_running(
        self, streams: list[Recording], tasks: list[asyncio.Task[None]]
    ) -> None:
        while any(len(stream.reads) < self.num_tokens_before for stream in streams):
            if any(task.done() for task in tasks):
                return  # it failed, and will show no tokens
            await asyncio.sleep(0.01)

    def _measure(self, server: Server, streams: list[Answer], arrival: Answer) -> Measurement:
        start_s, first_s = arrival.sent_s, (arrival.arrivals or [arrival.sent_s])[0]
        num_tokens = sum(start_s < a <= first_s for stream in streams for a in stream.arrivals)
        return Measurement(
            tokens_per_s=num_tokens / (first_s - start_s) if first_s > start_s else 0.0,
            ttfts=[first_s - start_s],
            gaps=[
                end - start
                for stream in streams
                for start, end in stream.gaps
                if end > start_s and start < first_s
            ],
            peak_memory=server.peak_memory,
            answers=[arrival],
        )


Scenario = ClosedLoop | LongArrival


def scenarios(*, is_quick: bool) -> list[Scenario]:
    """All of them; the quick ones ask less often."""
    share = 3 if is_quick else 1
    plain = [
        ClosedLoop(num_clients, max(num_requests // share, 1), max_tokens=64)
        for num_clients, num_requests in ((1, 8), (4, 6), (16, 4))
    ]
    with_system_prompt = [
        ClosedLoop(num_clients, max(num_requests // share, 1), 32, prompts.SYSTEM_PROMPT)
        for num_clients, num_requests in ((1, 8), (4, 6), (8, 4), (16, 4))
    ]
    return [*plain, *with_system_prompt, LongArrival()]
