"""Checks that many requests and disconnects do not leak memory or slots of the emulator."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator
from typing import Any

from workers_ai_emulator.machine import in_units

from benchmarks import prompts, servers, tables
from benchmarks.conditions import MODEL_NAME, Conditions
from benchmarks.requests import Client
from benchmarks.servers import Server

_NUM_CLIENTS = 16
_NUM_FIRST = 500  # after so many requests, all caches of the emulator are full
_SLOTS = "slots"


def report(conditions: Conditions) -> Iterator[str]:
    """Yields a table with the emulator's memory after many requests.

    The table also has the number of free slots after many disconnects.
    """
    share = 10 if conditions.is_quick else 1
    with servers.running(servers.ours(conditions), _NUM_CLIENTS, 1024) as server:
        first = asyncio.run(_send_many(server, _NUM_FIRST))
        memory_before = server.memory
        last = asyncio.run(_send_many(server, 10_000 // share - _NUM_FIRST))
        memory_after = server.memory
        asyncio.run(_disconnect_many(server, 1_000 // share))
        rows = [
            ["responses", f"{first + last}"],
            [f"resident memory after {_NUM_FIRST} responses", in_units(memory_before)],
            ["resident memory after all responses", in_units(memory_after)],
            ["ratio", tables.ratio(memory_after, memory_before)],
            ["requests with a disconnect after that", f"{1_000 // share}"],
            *_left_over(server),
            ["resident memory at the end", in_units(server.memory)],
        ]
    yield (
        f"{_NUM_CLIENTS} clients send short requests, and the benchmark measures the memory of the "
        "server's process."
    )
    yield tables.markdown(["", ""], rows)


async def _send_many(server: Server, count: int) -> int:
    """Sends `count` requests for a few tokens from 16 clients; returns the number of responses."""
    async with Client(server.run_url(MODEL_NAME)) as client:

        async def be_client(number: int) -> int:
            indexes = range(number, count, _NUM_CLIENTS)
            return sum([bool(await client.send(_short(index))) for index in indexes])

        return sum(await asyncio.gather(*map(be_client, range(_NUM_CLIENTS))))


async def _disconnect_many(server: Server, count: int) -> None:
    """Sends `count` requests for 500 tokens, and disconnects each after at most 0.5 s."""
    rng = random.Random(1)
    async with Client(server.run_url(MODEL_NAME)) as client:

        async def be_client(number: int) -> None:
            for index in range(number, count, _NUM_CLIENTS):
                body = _short(index) | {"max_tokens": 500, "stream": index % 2 == 0}
                await client.send_and_disconnect(body, after_s=rng.random() / 2)

        await asyncio.gather(*map(be_client, range(_NUM_CLIENTS)))


def _short(index: int) -> dict[str, Any]:
    return {
        "prompt": f"{prompts.PROMPTS[index % len(prompts.PROMPTS)]} {index}",
        "max_tokens": 1 + index % 3,
        "temperature": 1,
    }


def _left_over(server: Server) -> list[list[str]]:
    """Waits at most 30 s until no request runs, then returns three table rows.

    The rows have the numbers of free slots, of requests that still run or wait, and of ended
    requests.
    """
    deadline = time.monotonic() + 30
    while server.metric("running") + server.metric("waiting") and time.monotonic() < deadline:
        time.sleep(0.1)
    return [
        ["free slots", f"{server.metric('free_slots'):.0f} of {server.metric(_SLOTS):.0f}"],
        ["running and waiting", f"{server.metric('running') + server.metric('waiting'):.0f}"],
        ["requests ended", f"{server.metric('requests_total'):.0f}"],
    ]
