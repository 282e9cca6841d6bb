"""Tests what happens to the work for a request when the client disconnects."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from starlette.requests import ClientDisconnect
from starlette.types import Message
from workers_ai_emulator.wire.disconnect import on_disconnect, while_connected

from tests.asgi import receiver

TIMEOUT_S = 10


class Work:
    """Work that runs until it is cancelled."""

    def __init__(self) -> None:
        self.is_cancelled = False

    async def __call__(self) -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.is_cancelled = True
            raise
        return "result"


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(TIMEOUT_S):
            await test()

    asyncio.run(limited())


async def respond(value: str) -> str:
    await asyncio.sleep(0)
    return value


def test_the_result_is_returned_while_the_client_is_connected() -> None:
    async def test() -> None:
        assert await while_connected(respond("result"), receiver([])) == "result"
        assert await while_connected(respond("result"), receiver([]), limit_s=60) == "result"

    run(test)


def test_the_work_is_cancelled_when_the_client_disconnects() -> None:
    async def test() -> None:
        work = Work()
        with pytest.raises(ClientDisconnect):
            await while_connected(work(), receiver([], disconnects=True))
        assert work.is_cancelled

    run(test)


def test_the_work_is_cancelled_at_the_time_limit() -> None:
    async def test() -> None:
        work = Work()
        with pytest.raises(TimeoutError):
            await while_connected(work(), receiver([]), limit_s=0.001)
        await asyncio.sleep(0)
        assert work.is_cancelled

    run(test)


def test_an_error_of_the_work_is_raised() -> None:
    async def fail() -> None:
        raise ValueError("failed")

    async def test() -> None:
        with pytest.raises(ValueError, match="failed"):
            await while_connected(fail(), receiver([]))

    run(test)


def test_a_disconnect_leaves_no_cancellation_in_the_caller() -> None:
    async def test() -> None:
        with pytest.raises(ClientDisconnect):
            await while_connected(Work()(), receiver([], disconnects=True))
        running = asyncio.current_task()
        assert running is not None
        assert running.cancelling() == 0

    run(test)


def test_work_that_was_cancelled_elsewhere_ends_as_after_a_disconnect() -> None:
    async def test() -> None:
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        with pytest.raises(ClientDisconnect):
            await while_connected(future, receiver([]))

    run(test)


def test_a_cancelled_caller_stays_cancelled_if_the_client_disconnects_too() -> None:
    async def test() -> None:
        is_gone = asyncio.Event()

        async def receive() -> Message:
            await is_gone.wait()
            return {"type": "http.disconnect"}

        calling = asyncio.create_task(while_connected(Work()(), receive))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        is_gone.set()
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling

    run(test)


def test_the_work_is_cancelled_with_its_caller() -> None:
    async def test() -> None:
        work = Work()
        calling = asyncio.create_task(while_connected(work(), receiver([])))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
        await asyncio.sleep(0)
        assert work.is_cancelled

    run(test)


def test_the_action_runs_once_when_the_client_disconnects() -> None:
    async def test() -> None:
        calls: list[str] = []
        is_called = asyncio.Event()

        def action() -> None:
            calls.append("called")
            is_called.set()

        async with on_disconnect(receiver([b"rest"], disconnects=True), action):
            await is_called.wait()
        assert calls == ["called"]

    run(test)


def test_the_action_does_not_run_after_the_block() -> None:
    async def test() -> None:
        calls: list[str] = []
        may_disconnect = asyncio.Event()

        async def receive() -> Message:
            await may_disconnect.wait()
            return {"type": "http.disconnect"}

        async with on_disconnect(receive, lambda: calls.append("called")):
            await asyncio.sleep(0)
        may_disconnect.set()
        await asyncio.sleep(0)
        assert calls == []

    run(test)
