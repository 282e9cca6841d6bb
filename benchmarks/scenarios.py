"""The scenarios of the comparison: each defines which requests the clients send, and when."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

from workers_ai_emulator.engine.types import WeightsType

from benchmarks import prompts
from benchmarks.client import ChatRequest, Completion, TimedResponse, send
from benchmarks.conditions import MODEL_NAME, MODELS
from benchmarks.measurements import Measurement
from benchmarks.servers import Server


@dataclass(frozen=True, slots=True)
class ClosedLoop:
    """A scenario: each client sends a request as soon as its previous response is complete.

    `num_requests`: the number of requests of each client. `num_slots` and `context_length` are
    settings of the server.
    """

    num_clients: int
    num_requests: int
    max_tokens: int
    system_prompt: str | None = None
    num_slots: int = 16
    context_length: int = 1024
    model: str = MODEL_NAME

    @property
    def needs_concurrency(self) -> bool:
        """Whether servers that compute one request at a time are too slow for the scenario."""
        return self.num_clients > 4

    @property
    def name(self) -> str:
        clients = f"{self.num_clients} client{'s' if self.num_clients > 1 else ''}"
        return clients + (", shared system prompt of 200 tokens" if self.system_prompt else "")

    @property
    def description(self) -> str:
        return f"{self.name}, {self.max_tokens} new tokens, {self.num_requests} requests each"

    async def run(self, server: Server) -> Measurement:
        responses = await asyncio.gather(
            *(self._run_client(server, number) for number in range(self.num_clients))
        )
        return measurement(
            server, [response.completion() for of_client in responses for response in of_client]
        )

    async def _run_client(self, server: Server, number: int) -> list[TimedResponse]:
        responses = [TimedResponse(self._request(number, i)) for i in range(self.num_requests)]
        for response in responses:
            await send(server, response)
        return responses

    def _request(self, client: int, request: int) -> ChatRequest:
        """Returns the request with the index `request` of the client with the index `client`.

        Two clients send most prompts, at different times, so that the two completions can be
        compared.
        """
        index = client + request * max(self.num_clients // 2, 1)
        return ChatRequest(prompts.PROMPTS[index], self.max_tokens, self.system_prompt)


@dataclass(frozen=True, slots=True)
class LongArrival:
    """A scenario: a client sends a long prompt while other clients receive streams.

    The client sends the long prompt when each stream has received `num_tokens_before` tokens. The
    measurement lasts from then until the first token of the long prompt's completion.
    """

    num_streams: int = 4
    num_tokens_before: int = 8
    max_tokens: int = 1024
    num_slots: int = 5
    context_length: int = 4096
    model: str = MODEL_NAME
    needs_concurrency: bool = True

    @property
    def name(self) -> str:
        return f"{self.num_streams} streams while a prompt of 2,000 tokens is evaluated"

    @property
    def description(self) -> str:
        return f"{self.name}: tokens/s and gaps of the streams, TTFT of the prompt"

    async def run(self, server: Server) -> Measurement:
        streams = [
            TimedResponse(ChatRequest(prompt, self.max_tokens))
            for prompt in prompts.PROMPTS[: self.num_streams]
        ]
        tasks = [asyncio.create_task(send(server, stream)) for stream in streams]
        await self._until_running(streams, tasks)
        arrival = TimedResponse(ChatRequest(prompts.LONG_PROMPT, max_tokens=4))
        await send(server, arrival)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return self._measure(
            server, [stream.completion() for stream in streams], arrival.completion()
        )

    async def _until_running(
        self, streams: list[TimedResponse], tasks: list[asyncio.Task[None]]
    ) -> None:
        while any(len(stream.reads) < self.num_tokens_before for stream in streams):
            if any(task.done() for task in tasks):
                return  # a stream ended early, for example with an error
            await asyncio.sleep(0.01)

    def _measure(
        self, server: Server, streams: list[Completion], arrival: Completion
    ) -> Measurement:
        start_s, first_s = arrival.sent_s, (arrival.arrivals or [arrival.sent_s])[0]
        num_tokens = sum(start_s < a <= first_s for stream in streams for a in stream.arrivals)
        return Measurement(
            tokens_per_s=num_tokens / (first_s - start_s) if first_s > start_s else 0.0,
            token_s=len(streams) * (first_s - start_s) / max(num_tokens, 1),
            ttfts=[first_s - start_s],
            gaps=[
                end - start
                for stream in streams
                for start, end in stream.gaps
                if end > start_s and start < first_s
            ],
            peak_memory=server.peak_memory,
            completions=[arrival],
        )


@dataclass(frozen=True, slots=True)
class Lone:
    """A scenario: one client sends `requests` one after the other, and no other client runs.

    `weights_type`: the type of the weights of the model that the requests name.
    """

    name: str
    weights_type: WeightsType
    requests: tuple[ChatRequest, ...]
    num_slots: int = 4
    context_length: int = 4096

    @property
    def model(self) -> str:
        return self.requests[0].model

    @property
    def description(self) -> str:
        return f"{self.name}, {self.requests[0].max_tokens} new tokens"

    async def run(self, server: Server) -> Measurement:
        responses = [TimedResponse(request) for request in self.requests]
        for response in responses:
            await send(server, response)
        return measurement(server, [response.completion() for response in responses])


Scenario = ClosedLoop | LongArrival | Lone


def measurement(server: Server, completions: list[Completion]) -> Measurement:
    """Returns the metrics of a scenario's completions, and the peak memory of the server."""
    with_text = [completion for completion in completions if completion.arrivals]
    start_s = min(completion.sent_s for completion in completions)
    end_s = max((completion.ended_s for completion in with_text), default=start_s)
    num_tokens = sum(completion.num_tokens for completion in completions)
    num_later = sum(completion.num_later_tokens for completion in with_text)
    return Measurement(
        tokens_per_s=num_tokens / (end_s - start_s) if with_text else 0.0,
        token_s=sum(completion.after_first_s for completion in with_text) / max(num_later, 1),
        ttfts=[completion.ttft_s for completion in with_text],
        gaps=[end - start for completion in with_text for start, end in completion.gaps],
        peak_memory=server.peak_memory,
        completions=completions,
    )


def scenarios(*, is_quick: bool) -> list[ClosedLoop | LongArrival]:
    """Returns all scenarios. If `is_quick` is true, clients send only a third of the requests."""
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


def lone_scenarios(*, is_quick: bool) -> list[Lone]:
    """Returns the scenarios with one client. If `is_quick` is true, they are a third as long."""
    max_tokens = 32 if is_quick else 96
    step = 3 if is_quick else 1
    short, texts = prompts.SHORT_PROMPTS[::step], prompts.TEXT_PROMPTS[::step]
    types: tuple[WeightsType, ...] = ("Q8_0", "F16")
    # Two prompts of about 2,000 tokens, which do not share a prefix.
    contexts = [prompts.long_prompt(1650, first) for first in (0, 20)]
    return [
        _lone("short prompts", "Q8_0", short, max_tokens),
        _lone("short prompts", "F16", short, max_tokens),
        _lone("text in the prompt", "F16", texts, max_tokens),
        _lone("short prompts", "F16", short, max_tokens, temperature=0.6),
        _lone("text in the prompt", "F16", texts, max_tokens, temperature=0.6),
        *(_lone("context of 2,000 tokens", t, contexts, max_tokens) for t in types),
        *(_lone("prompt of 2,400 words", t, [prompts.long_prompt(2400)], 4) for t in types),
    ]


def _lone(
    name: str,
    weights_type: WeightsType,
    texts: Iterable[str],
    max_tokens: int,
    temperature: float = 0.0,
) -> Lone:
    requests = tuple(
        ChatRequest(
            text, max_tokens, temperature=temperature, seed=seed, model=MODELS[weights_type]
        )
        for seed, text in enumerate(texts, start=1)
    )
    return Lone(f"{weights_type}, {name}, temperature {temperature:g}", weights_type, requests)
