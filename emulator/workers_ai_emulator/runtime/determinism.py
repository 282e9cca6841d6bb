"""Tries whether equal requests get equal completions, for the command `check`.

A trial first generates the completions of different requests one after the other. It then generates
them again in several ways, and compares them.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from workers_ai_emulator.engine.engine import Engine, EngineGeneration
from workers_ai_emulator.engine.errors import DeadlineExceeded
from workers_ai_emulator.engine.types import Chunk, SamplingParams, Vocabulary
from workers_ai_emulator.runtime.speed import prompt_tokens

# The numbers of prompt tokens. A prompt of at most 63 tokens takes one decode call, and a prompt of
# 317 and more is computed in tiles (see engine/tiling.py).
_LENGTHS = (4, 9, 17, 32, 62, 63, 64, 120, 200, 260, 400, 600)
_MIN_TOKENS, _MAX_TOKENS = 4, 24
_NUM_OTHERS = 4  # how many requests are cancelled
_WORDS = (
    "river", "stone", "light", "winter", "market", "engine", "paper", "garden", "letter", "window",
    "mountain", "silver", "music", "harbour", "train", "orange", "history", "doctor", "island",
    "bread", "candle", "forest", "question", "answer",
)  # fmt: skip
# The shares of the time limit at which the first completions and the rounds end at the latest.
_FIRST_END = 0.3
_ENDS = (0.6, 0.9, 1.0)

Completion = list[Chunk] | None  # None if the time limit ended the generation


@dataclass(frozen=True, slots=True)
class TrialRequest:
    """A request of a trial: the tokens of its prompt, and its sampling parameters."""

    prompt_tokens: list[int]
    params: SamplingParams


@dataclass(frozen=True, slots=True)
class Difference:
    """A request whose completion differs. `token`: the index of the first different token."""

    request: TrialRequest
    token: int


@dataclass(frozen=True, slots=True)
class Round:
    """The completions of all requests in one of the ways, compared with the first completions.

    `way`: how they were generated, as a text. `num_compared`: how many of them were complete before
    the time limit.
    """

    way: str
    num_compared: int
    differences: list[Difference]


@dataclass(frozen=True, slots=True)
class Trial:
    """The requests of a trial and its rounds."""

    requests: list[TrialRequest]
    rounds: list[Round]

    @property
    def num_planned(self) -> int:
        """How many completions would have been compared without the time limit."""
        return len(self.requests) * len(self.rounds)

    @property
    def num_compared(self) -> int:
        return sum(round.num_compared for round in self.rounds)

    @property
    def num_different(self) -> int:
        return sum(len(round.differences) for round in self.rounds)


async def try_determinism(engine: Engine, *, tokens_per_s: float | None, limit_s: float) -> Trial:
    """Runs a trial, which takes at most about `limit_s` seconds.

    `tokens_per_s`: how fast the engine generates one completion; None if unknown. The completions
    of a slow engine are shorter.
    """
    start_s = time.monotonic()
    max_tokens = completion_length(tokens_per_s or 0.0, limit_s)
    requests = make_requests(engine.vocabulary, engine.context_length, max_tokens)
    completions = await _alone(engine, requests, start_s + limit_s * _FIRST_END)
    pairs = zip(requests, completions, strict=True)
    expected = [(request, completion) for request, completion in pairs if completion]
    rounds = []
    for (way, generate), end in zip(_WAYS.items(), _ENDS, strict=True):
        again = await generate(engine, [r for r, _ in expected], start_s + limit_s * end)
        rounds.append(compare(way, expected, again))
    return Trial(requests, rounds)


def completion_length(tokens_per_s: float, limit_s: float) -> int:
    """Returns the maximum number of tokens of each completion: from 4 to 24.

    `tokens_per_s`: how fast the engine generates one completion. `limit_s`: the time limit of the
    trial. The number is chosen such that generating the first completions takes half of the time
    reserved for them; the other half is left for their prompts.
    """
    num_affordable = int(tokens_per_s * limit_s * _FIRST_END / 2 / len(_LENGTHS))
    return max(_MIN_TOKENS, min(num_affordable, _MAX_TOKENS))


def make_requests(
    vocabulary: Vocabulary, context_length: int, max_tokens: int
) -> list[TrialRequest]:
    """Returns twelve requests: greedy and seeded, the shortest prompt first.

    Some prompts begin with the same tokens. `max_tokens`: the maximum length of the completions.
    """
    bases = [_base(vocabulary, seed) for seed in range(2)]
    requests = []
    for index, length in enumerate(_LENGTHS):
        ending = vocabulary.tokenize(f" {_WORDS[index]}")[:2]
        base = bases[index % 2][: min(length, context_length - max_tokens) - len(ending)]
        params = SamplingParams(max_tokens, temperature=0.0)
        if index // 2 % 2:
            params = replace(params, temperature=1.0, seed=index)
        requests.append(TrialRequest(base + ending, params))
    return requests


def compare(
    way: str,
    expected: Sequence[tuple[TrialRequest, list[Chunk]]],
    completions: Sequence[Completion],
) -> Round:
    """Compares the completions of one round with the expected completions of their requests."""
    complete = [
        (request, chunks, completion)
        for (request, chunks), completion in zip(expected, completions, strict=True)
        if completion is not None
    ]
    differences = [
        Difference(request, _first_difference(chunks, completion))
        for request, chunks, completion in complete
        if chunks != completion
    ]
    return Round(way, len(complete), differences)


def _first_difference(one: list[Chunk], other: list[Chunk]) -> int:
    """Returns the index of the first chunk that differs."""
    pairs = zip(one, other, strict=False)
    shorter = min(len(one), len(other))
    return next((index for index, (a, b) in enumerate(pairs) if a != b), shorter)


def _base(vocabulary: Vocabulary, seed: int) -> list[int]:
    words = random.Random(seed).choices(_WORDS, k=max(_LENGTHS))
    return prompt_tokens(vocabulary, " ".join(words))


async def _alone(
    engine: Engine, requests: Sequence[TrialRequest], deadline: float
) -> list[Completion]:
    return [
        await _completion(_submit(engine, request), deadline)
        if time.monotonic() < deadline
        else None
        for request in requests
    ]


async def _alone_in_reverse(
    engine: Engine, requests: Sequence[TrialRequest], deadline: float
) -> list[Completion]:
    return (await _alone(engine, requests[::-1], deadline))[::-1]


async def _together(
    engine: Engine, requests: Sequence[TrialRequest], deadline: float
) -> list[Completion]:
    generations = [_submit(engine, request) for request in requests]
    return await asyncio.gather(*(_completion(g, deadline) for g in generations))


async def _together_after_cancels(
    engine: Engine, requests: Sequence[TrialRequest], deadline: float
) -> list[Completion]:
    """Submits the requests while other requests run, and then cancels the others."""
    others = [_submit(engine, other) for other in _others(requests)]
    for other in others[:1]:  # waits until at least one of the others has been evaluated
        await _first_chunk(other, deadline)
    generations = [_submit(engine, request) for request in requests]
    for other in others:
        other.cancel()
    return await asyncio.gather(*(_completion(g, deadline) for g in generations))


_Way = Callable[[Engine, Sequence[TrialRequest], float], Awaitable[list[Completion]]]
_WAYS: dict[str, _Way] = {
    "all at the same time": _together,
    "all at the same time, while other requests are cancelled": _together_after_cancels,
    "one after the other again, in reverse order": _alone_in_reverse,
}


def _others(requests: Sequence[TrialRequest]) -> Iterator[TrialRequest]:
    """Yields requests whose prompts are the first halves of the longest prompts."""
    for request in requests[-_NUM_OTHERS:]:
        half = request.prompt_tokens[: len(request.prompt_tokens) // 2]
        yield TrialRequest(half, replace(request.params, max_tokens=2 * _MAX_TOKENS))


def _submit(engine: Engine, request: TrialRequest) -> EngineGeneration:
    return engine.submit(request.prompt_tokens, request.params)


async def _first_chunk(generation: EngineGeneration, deadline: float) -> None:
    """Waits for the first chunk of a completion, at most until `deadline`."""
    generation.cancel_after(deadline - time.monotonic())
    with suppress(DeadlineExceeded):
        await anext(aiter(generation))


async def _completion(generation: EngineGeneration, deadline: float) -> Completion:
    """Returns the chunks of a completion. Cancels it at `deadline` (as of time.monotonic)."""
    generation.cancel_after(deadline - time.monotonic())
    try:
        return [chunk async for chunk in generation]
    except DeadlineExceeded:
        return None
