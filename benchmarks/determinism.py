"""Checks that equal requests get equal bytes, whatever other requests run at the same time.

First sends different requests one after the other, to an emulator without drafts. Then sends the
same requests to an emulator with drafts, and compares the responses: one after the other, and
concurrently, in random order, while other clients disconnect at random moments. The requests differ
in sampling (greedy or seeded), prompt length, shared prefixes, and streaming. If the processor
supports AVX-512, the check is repeated with a build of llama.cpp that does not use AVX-512, because
llama.cpp then computes with other functions.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks import peers, servers, tables
from benchmarks.conditions import MODELS, Conditions, has_avx512
from benchmarks.requests import Client
from benchmarks.servers import ServerSpec

log = logging.getLogger(__name__)

_WORDS = ["river", "stone", "light", "winter", "market", "engine", "paper", "garden", "letter"]
_WORDS += ["mountain", "silver", "window", "music", "harbour", "train", "orange", "history"]
_WORDS += ["doctor", "island", "bread", "candle", "forest", "question", "answer"]
_MAX_PROMPT_LENGTH = 4096  # in characters; Cloudflare's schemas allow more
_NUM_CLIENTS = 16
_NUM_ROUNDS_AVX2 = 2
_LIBRARIES = "LLAMA_CPP_LIB_PATH"  # llama-cpp-python loads llama.cpp from this folder
_ROOT = Path(__file__).resolve().parents[1]
_ROUNDING_TESTS = _ROOT / "tests" / "e2e" / "test_rounding.py"


@dataclass(frozen=True, slots=True)
class Trial:
    """The requests of the check, and how they are sent.

    `num_rounds`: how often the requests are sent concurrently. `environment`: environment variables
    of the servers.
    """

    conditions: Conditions
    requests: list[dict[str, Any]]
    num_rounds: int
    environment: Mapping[str, str]

    def rows(self, model: str) -> Iterator[list[str]]:
        """Sends all requests to the model. Yields the rows of the table in the report."""
        with servers.running(self._spec("--no-drafts"), _NUM_CLIENTS, 1024) as server:
            expected = self._alone(server.run_url(model))
        with servers.running(self._spec(), _NUM_CLIENTS, 1024) as server:
            url = server.run_url(model)
            alone = [
                a != b for _ in range(2) for a, b in zip(self._alone(url), expected, strict=True)
            ]
            concurrent = [
                self._concurrently(url, expected, seed=number) for number in range(self.num_rounds)
            ]
        yield [f"{model}, one after the other", str(len(alone)), str(sum(alone))]
        count = self.num_rounds * len(self.requests)
        yield [f"{model}, concurrent", str(count), str(sum(concurrent))]

    def _spec(self, *flags: str) -> ServerSpec:
        return replace(servers.ours(self.conditions, *flags), environment=self.environment)

    def _alone(self, url: str) -> list[bytes]:
        return asyncio.run(sequential_responses(url, self.requests))

    def _concurrently(self, url: str, expected: list[bytes], *, seed: int) -> int:
        return asyncio.run(
            count_differences(url, self.requests, expected, num_clients=_NUM_CLIENTS, seed=seed)
        )


def report(conditions: Conditions) -> Iterator[str]:
    """Yields a table with the number of responses whose bytes differ, for each Llama 2 model.

    If the processor supports AVX-512, yields a second table, for llama.cpp without AVX-512.
    """
    trial = Trial(
        conditions, make_requests(count=40, max_words=880), 2 if conditions.is_quick else 10, {}
    )
    yield (
        f"The benchmark sends {len(trial.requests)} requests one after the other to an emulator "
        "with `--no-drafts`. To an emulator with drafts, it sends the same requests twice one "
        f"after the other, then {trial.num_rounds} times from {_NUM_CLIENTS} concurrent clients in "
        "random order. It compares the bytes of the responses with those without drafts. For one "
        "in three concurrent requests, the client first sends another request, and disconnects "
        "before its response is complete."
    )
    yield _table(trial)
    yield "### Without AVX-512"
    if not has_avx512():
        yield "Not measured: the processor of this machine does not support AVX-512."
        return
    environment = {_LIBRARIES: str(peers.avx2_libraries())}
    yield (
        "The same check with a build of llama.cpp that uses AVX2 and not AVX-512, with "
        f"{_NUM_ROUNDS_AVX2} rounds of concurrent requests. The last line is the result of "
        "`tests/e2e/test_rounding.py` with this build."
    )
    yield _table(replace(trial, environment=environment, num_rounds=_NUM_ROUNDS_AVX2))
    yield f"`{_rounding_tests(environment)}`"


def _table(trial: Trial) -> str:
    rows = [row for model in MODELS.values() for row in trial.rows(model)]
    return tables.markdown(["", "responses compared", "different bytes"], rows)


def _rounding_tests(environment: Mapping[str, str]) -> str:
    """Runs the tests of llama.cpp's rounding, and returns the last line of pytest's output."""
    log.info("running %s", _ROUNDING_TESTS.name)
    command = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(_ROUNDING_TESTS))
    result = subprocess.run(
        command, cwd=_ROOT, env=os.environ | dict(environment), stdout=subprocess.PIPE, text=True
    )
    return result.stdout.splitlines()[-1].strip("= ")


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
