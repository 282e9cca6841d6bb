"""Whether equal requests get equal bytes, whatever runs beside them.

Different requests are asked one after the other, then many times at once, in random order, with
other requests that are broken off at random moments. Greedy and seeded sampling, short and long
prompts, shared beginnings, streams and whole answers.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

_WORDS = [
    "river",
    "stone",
    "light",
    "winter",
    "market",
    "engine",
    "paper",
    "garden",
    "letter",
    "mountain",
    "silver",
    "window",
    "music",
    "harbour",
    "train",
    "orange",
    "history",
    "doctor",
    "island",
    "bread",
    "winter",
    "candle",
    "forest",
    "question",
    "answer",
]
_MAX_PROMPT_LENGTH = 4096  # characters; the schemas allow longer messages
_TIMEOUT_S = 600


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
    async with _client() as client:
        return [await _ask(client, url, body) for body in requests]


async def count_differences(
    url: str, requests: list[dict[str, Any]], expected: list[bytes], *, num_clients: int, seed: int
) -> int:
    """Ask all at once, `num_clients` at a time; how many answers are not the expected bytes."""
    rng = random.Random(seed)
    order = rng.sample(range(len(requests)), len(requests))
    places = asyncio.Semaphore(num_clients)
    async with _client() as client:

        async def differs(index: int) -> bool:
            async with places:
                if rng.random() < 0.3:
                    await _ask_and_leave(client, url, rng.choice(requests), rng.random() / 2)
                return await _ask(client, url, requests[index]) != expected[index]

        return sum(await asyncio.gather(*map(differs, order)))


@asynccontextmanager
async def _client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(timeout=_TIMEOUT_S, limits=httpx.Limits()) as client:
        yield client


async def _ask(client: httpx.AsyncClient, url: str, body: dict[str, Any]) -> bytes:
    answer = await client.post(url, json=body)
    answer.raise_for_status()
    return answer.content


async def _ask_and_leave(
    client: httpx.AsyncClient, url: str, body: dict[str, Any], after_s: float
) -> None:
    try:
        async with asyncio.timeout(after_s):
            await _ask(client, url, body)
    except TimeoutError:
        pass  # as wanted
