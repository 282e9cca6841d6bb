"""Runs many ordinary clients at the same time, and counts their responses by status.

Each client keeps its connection open between its requests, as SDKs do.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter

import uvloop

from benchmarks import prompts
from benchmarks.attack.exchange import Connection, ConnectionRefused, ResponseLost, post
from benchmarks.conditions import MODEL_NAME
from benchmarks.servers import API

_MAX_TOKENS = 32
_LIMIT_S = 120.0
# After each error, a client waits twice as long as before, as OpenAI's SDK does.
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 8.0


def run(port: int, num_clients: int, seed: str, seconds: float) -> Counter[str]:
    """Sends requests from `num_clients` clients for `seconds` seconds; counts the results.

    A result is the status of a response, "refused" or "lost".
    """
    counts: Counter[str] = Counter()
    if num_clients:
        uvloop.run(_run(port, num_clients, seed, seconds, counts))
    return counts


async def _run(
    port: int, num_clients: int, seed: str, seconds: float, counts: Counter[str]
) -> None:
    """Runs the clients, adds their results to `counts`, and stops all clients after `seconds`."""

    async def be_client(number: int) -> None:
        rng = random.Random(f"{seed} {number}")
        wait_s, connection = _FIRST_WAIT_S, Connection(port)
        await asyncio.sleep(rng.random())  # so that the clients do not all begin at the same time
        while True:
            result = await _send(connection, _request(rng))
            counts[result] += 1
            wait_s = _FIRST_WAIT_S if result == "200" else min(2 * wait_s, _LONGEST_WAIT_S)
            if result != "200":
                await asyncio.sleep(wait_s * rng.uniform(0.75, 1))

    clients = [asyncio.create_task(be_client(number)) for number in range(num_clients)]
    done, _ = await asyncio.wait(clients, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
    for client in done:
        client.result()  # raises the exception that ended the client
    # The end of the process closes the connections of all clients.


async def _send(connection: Connection, request: bytes) -> str:
    """Returns the status of the response as a text; without a response, "refused" or "lost"."""
    try:
        return str((await connection.send(request, limit_s=_LIMIT_S)).status)
    except ConnectionRefused:
        return "refused"
    except ResponseLost:
        return "lost"


def _request(rng: random.Random) -> bytes:
    body = {"prompt": rng.choice(prompts.PROMPTS), "max_tokens": _MAX_TOKENS, "temperature": 0}
    body["stream"] = rng.random() < 0.5
    return post(f"{API}/run/{MODEL_NAME}", json.dumps(body).encode())
