"""Clients that compare each response with the response that the server sent to a single client."""

from __future__ import annotations

import asyncio
import json
import random
import re
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import uvloop

from benchmarks import determinism
from benchmarks.attack.exchange import (
    ConnectionRefused,
    Response,
    ResponseLost,
    exchange,
    post,
)
from benchmarks.conditions import MODEL_NAME
from benchmarks.servers import ACCOUNT_ID, API

NUM_CLIENTS = 32
_NUM_REQUESTS = 24
_LIMIT_S = 120.0
_MAX_EXAMPLES = 3
# Matches the keys `id` and `created`, whose values differ from response to response.
_VARIABLE = re.compile(rb'"(id|created)":("[^"]*"|\d+)')


@dataclass(slots=True)
class Results:
    """The number of requests by their result, and examples of wrong or lost responses."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    def add_example(self, text: str) -> None:
        if len(self.examples) < _MAX_EXAMPLES:
            self.examples.append(text)


def requests() -> list[bytes]:
    """Returns requests to `ai/run`, chat completions, AI Gateway and a binding.

    Each request has temperature 0 or a seed, so the server always sends the same response to it.
    """
    bodies = determinism.make_requests(count=_NUM_REQUESTS, max_words=120)
    return [_request(index, body) for index, body in enumerate(bodies)]


def _request(index: int, body: dict[str, Any]) -> bytes:
    data = json.dumps(body).encode()
    if index % 4 == 1:
        return post(f"/v1/{ACCOUNT_ID}/gateway/workers-ai/{MODEL_NAME}", data)
    if index % 4 == 2:
        inputs = json.dumps({"inputs": body, "options": {}}).encode()
        return post("/run?version=3", inputs, f"cf-consn-model-id: {MODEL_NAME}")
    if index % 4 == 0 and "messages" in body:
        chat = body | {"model": MODEL_NAME}
        return post(f"{API}/v1/chat/completions", json.dumps(chat).encode())
    return post(f"{API}/run/{MODEL_NAME}", data)


async def expected_bodies(port: int) -> list[bytes]:
    """Returns the expected body of the response to each request.

    Sends each request twice, one request at a time. Raises SystemExit if the server sends an error,
    or two different responses to one request.
    """
    bodies = []
    for request in requests():
        first, second = [await exchange(port, request, limit_s=_LIMIT_S) for _ in range(2)]
        if first.status != 200 or comparable(first.body) != comparable(second.body):
            raise SystemExit(
                f"without other clients, one request gets two responses:\n{request!r}\n"
                f"{first}\n{second}"
            )
        bodies.append(comparable(first.body))
    return bodies


def comparable(body: bytes) -> bytes:
    """Returns the body without the ids and times that differ from response to response."""
    return _VARIABLE.sub(rb'"\1":0', body)


def run(port: int, expected: list[bytes], seed: str, seconds: float) -> Results:
    """Sends requests from 32 clients for `seconds`, and compares the responses with `expected`.

    `expected`: the expected body for each request of `requests()`.
    """
    results = Results()
    uvloop.run(_run(port, expected, seed, seconds, results))
    return results


async def _run(
    port: int, expected: list[bytes], seed: str, seconds: float, results: Results
) -> None:
    end_s = time.monotonic() + seconds
    requests_ = list(zip(requests(), expected, strict=True))

    async def be_client(number: int) -> None:
        rng = random.Random(f"{seed} {number}")
        while time.monotonic() < end_s:
            request, body = rng.choice(requests_)
            results.counts["sent"] += 1
            await _send(port, request, body, rng, end_s, results)

    await asyncio.gather(*map(be_client, range(NUM_CLIENTS)))


async def _send(
    port: int, request: bytes, expected: bytes, rng: random.Random, end_s: float, results: Results
) -> None:
    """Sends the request, and repeats it while the server refuses it or is out of capacity.

    Compares the final response with `expected`, and counts the outcome in `results`. Stops trying
    at `end_s`, a value of `time.monotonic()`.
    """
    while True:
        try:
            response = await exchange(port, request, limit_s=_LIMIT_S)
        except ConnectionRefused:
            results.counts["connection refused, tried again"] += 1
        except ResponseLost as error:
            results.counts["lost"] += 1
            results.add_example(f"{error}: {request!r}")
            return
        else:
            if not response.is_out_of_capacity and response.status != 503:
                _compare(request, response, expected, results)
                return
            results.counts[f"status {response.status}, tried again"] += 1
        if time.monotonic() > end_s:
            results.counts["given up at the end of the phase"] += 1
            return
        await asyncio.sleep(rng.uniform(0.2, 1))


def _compare(request: bytes, response: Response, expected: bytes, results: Results) -> None:
    if response.status == 200 and comparable(response.body) == expected:
        results.counts["equal"] += 1
        return
    results.counts["wrong"] += 1
    results.add_example(f"{request!r}\nexpected: {expected!r}\nreceived: {response!r}")
