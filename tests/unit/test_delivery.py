"""Tests how the chunks of a generation are read from its queue of events."""

from __future__ import annotations

import asyncio

import pytest
from workers_ai_emulator.engine.delivery import Event, chunks_of
from workers_ai_emulator.engine.errors import DeadlineExceeded, EngineError
from workers_ai_emulator.engine.types import Chunk, FinishReason

LAST = Chunk("c", FinishReason.STOP)


def read(*events: Event) -> list[Chunk]:
    """Returns the chunks that `chunks_of` yields for these events."""

    async def collect() -> list[Chunk]:
        queue: asyncio.Queue[Event] = asyncio.Queue()
        for event in events:
            queue.put_nowait(event)
        return [chunk async for chunk in chunks_of(queue)]

    return asyncio.run(collect())


def test_chunks_come_in_order_up_to_the_one_with_a_finish_reason() -> None:
    assert read(Chunk("a"), Chunk("b"), LAST) == [Chunk("a"), Chunk("b"), LAST]


def test_events_after_the_last_chunk_are_ignored() -> None:
    assert read(LAST, Chunk("d"), EngineError("late")) == [LAST]


@pytest.mark.parametrize("error", [EngineError("boom"), DeadlineExceeded()])
def test_an_error_is_raised_in_place_of_a_chunk(error: EngineError) -> None:
    with pytest.raises(type(error)):
        read(Chunk("a"), error, LAST)


def test_chunks_before_an_error_are_yielded() -> None:
    async def collect() -> list[Chunk]:
        queue: asyncio.Queue[Event] = asyncio.Queue()
        queue.put_nowait(Chunk("a"))
        queue.put_nowait(EngineError("boom"))
        found = []
        with pytest.raises(EngineError):
            async for chunk in chunks_of(queue):
                found.append(chunk)
        return found

    assert asyncio.run(collect()) == [Chunk("a")]
