"""Checks that equal requests get equal bytes, whatever other requests run at the same time.

First sends different requests one after the other. Then sends the same requests concurrently, in
random order, while other clients disconnect at random moments, and compares the responses. The
requests differ in sampling (greedy or seeded), prompt length, shared prefixes, and streaming.
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
_MAX_PROMPT_LENGTH = 4096  # in characters; Cloudflare's schemas allow more
_NUM_CLIENTS = 16


def report(conditions: Conditions) -> Iterator[str]:
    """Yields a table with the number of responses whose bytes differ, for each Llama 2 model."""
    num_rounds = 2 if conditions.is_quick else 10
    requests = make_requests(count=40, max_words=880)
    yield (
        f"The benchmark sends {len(requests)} requests one after the other, then the same requests "
        f"{num_rounds} times from {_NUM_CLIENTS} concurrent clients in random order, and compares "
        "the bytes of the responses. For one in three requests, the client first sends "
        "another request, and disconnects before its response is complete."
    )
    rows = []
    for model in CATALOG:
        with servers.running(servers.ours(conditions), _NUM_CLIENTS, 1024) as server:
            url = server.run_url(model)
            expected = asyncio.run(sequential_responses(url, requests))
            differences = [
                asyncio.run(
                    count_differences(
                        url, requests, expected, num_clients=_NUM_CLIENTS, seed=number
                    )
                )
                for number in range(num_rounds)
            ]
        rows.append([model, str(num_rounds * len(requests)), str(sum(differences))])
    yield tables.markdown(["", "responses compared", "different bytes"], rows)


def make_requests(count: int, max_words: int, seed: int = 1) -> list[dict[str, Any]]:
    """Returns `count` different request bodies, whose prompts have about `max_words` words at most.

    A word has about one token.
    """
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


async def sequential_responses(url: str, requests: list[dict[str, Any]]) -> list[bytes]:
    """Sends the requests one after the other, and returns the bodies of the responses."""
    async with Client(url) as client:
        return [await client.send(body) for body in requests]


async def count_differences(
    url: str, requests: list[dict[str, Any]], expected: list[bytes], *, num_clients: int, seed: int
) -> int:
    """Sends all requests in random order, `num_clients` at a time.

    Returns the number of responses whose body differs from the body in `expected`. Before a third
    of the requests, the client sends another request and disconnects.
    """
    rng = random.Random(seed)
    order = rng.sample(range(len(requests)), len(requests))
    limit = asyncio.Semaphore(num_clients)
    async with Client(url) as client:

        async def differs(index: int) -> bool:
            async with limit:
                if rng.random() < 0.3:
                    await client.send_and_disconnect(rng.choice(requests), after_s=rng.random() / 2)
                return await client.send(requests[index]) != expected[index]

        return sum(await asyncio.gather(*map(differs, order)))
