"""Runs coroutine functions as tests."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

TIMEOUT_S = 10


def in_loop(test: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    """Returns a test that runs the coroutine function under asyncio, for at most 10 s."""

    async def limited() -> None:
        async with asyncio.timeout(TIMEOUT_S):
            await test()

    def run() -> None:
        asyncio.run(limited())

    run.__name__ = getattr(test, "__name__", "test")
    return run
