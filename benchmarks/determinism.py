"""Whether equal requests get equal bytes, whatever runs beside them.

Different requests are asked one after the other, then many times at once, in random order, with
other requests that are broken off at random moments. Greedy and seeded sampling, short and long
prompts, shared beginnings, streams and whole answers.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from typing import Any

from workers_ai_emulator.models.catalog import CATALOG

from benchmarks import servers, tables
from benchmarks.conditions import Conditions
from benchmarks.requests import Client

_WORDS = ["river", "stone", "light", "winter", "market", "engine", "paper", "garden", "letter"]
_WORDS += ["mountain", "silver", "window", "music", "harbour", "train", "orange", "history"]
_WORDS += ["doctor", "island", "bread", "candle", "forest", "question", "answer"]
_MAX_PROMPT_LENGTH = 4096  # characters; the schemas allow longer messages
_NUM_CLIENTS = 16


def report(conditions: Conditions) -> Iterator[str]:
    """The count of different answers, for both names."""
    num_rounds = 2 if conditions.is_quick else 10
    requests = make_requests(count=40, max_words=880)
    yield (
        f"{len(requests)} requests in turn, then {num_rounds} times by {_NUM_CLIENTS} clients at "
        "once, in random order, a third of them after one that is broken off."
    )
    rows = []
    for model in CATALOG:
        with servers.running(servers.ours(conditions), _NUM_CLIENTS, 1024) as server:
            url = server.run_url(model)
            expected = asyncio.run(answers_in_turn(url, requests))
            differences = [
                asyncio.run(
                    count_differences(
                        url, requests, expected, num_clients=_NUM_CLIENTS, seed=number
                    )
                )
                for number in range(num_rounds)
            ]
        rows.append([model, str(num_rounds * len(requests)), str(sum(differences))])
    yield tables.markdown(["", "answers compared", "not the same bytes"], rows)


def make_requests(count: int, max_words: int, seed: int = 1) -> list[dict[str, Any]]:
    """`count` different bodies; prompts have up to `max_words` words, about as many tokens."""
    rng = random.Random(seed)
    bases = [rng.choices(_WORDS, k=max_words // part) for part in (1, 2, 5, 20)]
    return [_body(rng, bases, index) for index in range(count)]


def _body(rng: random.Random, bases: list[list[str]], index: int) -> dict[str, Any]:
    base = rng.choice(bases)
    words = [*base[: rng.randint(0, len(base))], *rng.choices(_WORDS, k=rng.randint(1, 12))]
    body: dict[str, Any] = {"max_tokens": rng.randint(2, 40), "stream": index % 3 == 0}
    if index % 2:
        body |= {"temperature": 0}
    else:
        body |= {"temperature": 1.2, "seed": index + 1, "top_p": rng.choice([0.9, 1])}
    if index % 4 == 3:
        return body | {"prompt": " ".join(words)[:_MAX_PROMPT_LENGTH], "raw": True}
    return body | {"messages": [{"role": "user", "content": f"{' '.join(words)} {index}?"}]}


async def answers_in_turn(url: str, requests: list[dict[str, Any]]) -> list[bytes]:
    """What each gets alone."""
    async with Client(url) as client:
        return [await client.ask(body) for body in requests]


async def count_differences(
    url: str, requests: list[dict[str, Any]], expected: list[bytes], *, num_clients: int, seed: int
) -> int:
    """Ask all at once, `num_clients` at a time; how many answers are not the expected bytes."""
    rng = random.Random(seed)
    order = rng.sample(range(len(requests)), len(requests))
    places = asyncio.Semaphore(num_clients)
    async with Client(url) as client:

        async def differs(index: int) -> bool:
            async with places:
                if rng.random() < 0.3:
                    await client.ask_and_leave(rng.choice(requests), after_s=rng.random() / 2)
                return await client.ask(requests[index]) != expected[index]

        return sum(await asyncio.gather(*map(differs, order)))
