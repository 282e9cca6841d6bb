"""Tests the threads that compile grammars: waiting, cancelling and closing."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from workers_ai_emulator.engine.errors import CapacityExceeded
from workers_ai_emulator.engine.grammar_threads import GrammarThreads

from tests.loop import TIMEOUT_S, in_loop


@asynccontextmanager
async def blocked(threads: GrammarThreads) -> AsyncIterator[None]:
    """Keeps both threads busy during the `with` block."""
    gate, barrier = threading.Event(), threading.Barrier(3)

    def block() -> None:
        barrier.wait(TIMEOUT_S)
        assert gate.wait(TIMEOUT_S), "the test did not open the gate"

    calls = [asyncio.create_task(threads.call(block)) for _ in range(2)]
    try:
        await asyncio.to_thread(barrier.wait, TIMEOUT_S)
        yield
    finally:
        gate.set()
        await asyncio.gather(*calls)
        threads.close()


@in_loop
async def test_a_call_gives_the_result_or_the_error_of_its_function() -> None:
    threads = GrammarThreads()
    assert await threads.call(lambda: 5) == 5
    with pytest.raises(ZeroDivisionError):
        await threads.call(lambda: 1 // 0)
    threads.close()


@in_loop
async def test_a_function_whose_call_is_cancelled_before_it_starts_is_not_called() -> None:
    threads, called = GrammarThreads(), list[str]()
    async with blocked(threads):
        cancelled = asyncio.create_task(threads.call(lambda: called.append("cancelled")))
        waiting = asyncio.create_task(threads.call(lambda: called.append("waiting")))
        await asyncio.sleep(0)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
    await waiting
    assert called == ["waiting"]


@in_loop
async def test_waiting_for_too_long_is_an_error_of_capacity() -> None:
    threads = GrammarThreads(max_wait_s=-1)
    with pytest.raises(CapacityExceeded, match="are being compiled"):
        await threads.call(lambda: 5)
    threads.close()


@in_loop
async def test_closing_ends_the_threads_after_the_functions() -> None:
    threads = GrammarThreads()
    async with blocked(threads):
        threads.close()
        running = list(threads._executor._threads)
        assert len(running) == 2 and all(thread.is_alive() for thread in running)
    for thread in running:
        await asyncio.to_thread(thread.join, TIMEOUT_S)
        assert not thread.is_alive()
