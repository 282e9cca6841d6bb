"""Tests generations that take their chunks from an async generator, and how they end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable

import pytest
from workers_ai_emulator.backends.relayed import (
    ReadyGeneration,
    RelayedGeneration,
    RunningGenerations,
    num_words,
)
from workers_ai_emulator.engine.errors import (
    CapacityExceeded,
    DeadlineExceeded,
    EngineError,
)
from workers_ai_emulator.engine.types import Chunk, FinishReason, Usage

Item = Chunk | Usage | BaseException
END = Chunk("", FinishReason.STOP)
LIMIT_S = 5


class Source:
    """An async generator that yields the items. Raises an item if it is an exception.

    `is_endless`: whether it waits for ever after the last item.
    """

    def __init__(self, *items: Item, is_endless: bool = False) -> None:
        self.items = items
        self.is_endless = is_endless
        self.num_yielded = 0
        self.is_closed = asyncio.Event()

    async def __call__(self) -> AsyncGenerator[Chunk | Usage]:
        try:
            for item in self.items:
                if isinstance(item, BaseException):
                    raise item
                self.num_yielded += 1
                yield item
            if self.is_endless:
                await asyncio.Event().wait()
        finally:
            self.is_closed.set()


def start(source: Source) -> RelayedGeneration:
    return RelayedGeneration(source(), num_prompt_tokens=3, fingerprint="x")


async def read(generation: RelayedGeneration) -> list[Chunk]:
    return [chunk async for chunk in generation]


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(LIMIT_S):
            await test()

    asyncio.run(limited())


def test_chunks_are_relayed_in_order_and_their_tokens_are_counted() -> None:
    async def test() -> None:
        source = Source(Chunk("a"), Chunk("b"), END)
        generation = start(source)
        assert await read(generation) == [Chunk("a"), Chunk("b"), END]
        assert generation.usage == Usage(3, 3)
        assert generation.finish_reason is FinishReason.STOP
        await source.is_closed.wait()

    run(test)


def test_a_chunk_may_have_several_tokens_or_none() -> None:
    async def test() -> None:
        chunks = [Chunk("a b", num_tokens=2), Chunk("c", num_tokens=0), END]
        relayed = start(Source(*chunks))
        await read(relayed)
        ready = ReadyGeneration(chunks, num_prompt_tokens=3, fingerprint="x")
        assert relayed.usage == ready.usage == Usage(3, 3)

    run(test)


def test_a_usage_from_the_source_replaces_the_count() -> None:
    async def test() -> None:
        generation = start(Source(Chunk("a"), Usage(17, 5, 2), END))
        await read(generation)
        assert generation.usage == Usage(17, 5, 2)

    run(test)


@pytest.mark.parametrize("error", [CapacityExceeded(), EngineError("broken")])
def test_an_engine_error_reaches_the_reader_unchanged(error: EngineError) -> None:
    async def test() -> None:
        source = Source(Chunk("a"), error)
        with pytest.raises(type(error)) as caught:
            await read(start(source))
        assert caught.value is error
        await source.is_closed.wait()

    run(test)


def test_any_other_error_becomes_an_engine_error_with_its_text(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def test() -> None:
        with pytest.raises(EngineError, match="surprise"):
            await read(start(Source(ZeroDivisionError("surprise"))))

    run(test)
    assert "ZeroDivisionError" in caplog.text


def test_a_source_without_a_finish_reason_is_an_error() -> None:
    async def test() -> None:
        with pytest.raises(EngineError, match="without a finish reason"):
            await read(start(Source(Chunk("a"))))

    run(test)


def test_cancelling_ends_the_iteration_and_closes_the_source() -> None:
    async def test() -> None:
        source = Source(Chunk("a"), is_endless=True)
        generation = start(source)
        chunks = aiter(generation)
        assert await anext(chunks) == Chunk("a")
        generation.cancel()
        assert await anext(chunks) == Chunk("", FinishReason.CANCELLED)
        assert generation.finish_reason is FinishReason.CANCELLED
        await source.is_closed.wait()

    run(test)


def test_cancelling_before_the_first_chunk_reads_nothing_from_the_source() -> None:
    async def test() -> None:
        source = Source(Chunk("a"), END)
        generation = start(source)
        generation.cancel()
        assert await read(generation) == [Chunk("", FinishReason.CANCELLED)]
        assert source.num_yielded == 0

    run(test)


def test_cancelling_after_the_end_changes_nothing() -> None:
    async def test() -> None:
        generation = start(Source(END))
        await read(generation)
        generation.cancel()
        assert generation.finish_reason is FinishReason.STOP

    run(test)


def test_a_time_limit_raises_and_closes_the_source() -> None:
    async def test() -> None:
        source = Source(is_endless=True)
        generation = start(source)
        generation.cancel_after(0.01)
        with pytest.raises(DeadlineExceeded):
            await read(generation)
        await source.is_closed.wait()

    run(test)


def test_a_full_queue_pauses_the_source_and_can_be_cancelled() -> None:
    async def test() -> None:
        source = Source(*[Chunk("a")] * 5000, END)
        generation = start(source)
        chunks = aiter(generation)
        await anext(chunks)
        assert source.num_yielded < 5000
        generation.cancel()
        await source.is_closed.wait()
        assert [chunk async for chunk in chunks][-1] == Chunk("", FinishReason.CANCELLED)

    run(test)


def test_all_chunks_of_a_source_longer_than_the_queue_arrive() -> None:
    async def test() -> None:
        generation = start(Source(*[Chunk("a")] * 5000, END))
        assert len(await read(generation)) == 5001

    run(test)


def test_all_generations_of_a_backend_can_be_cancelled() -> None:
    async def test() -> None:
        running = RunningGenerations()
        sources = [Source(is_endless=True) for _ in range(3)]
        generations = [running.start(s(), num_prompt_tokens=1, fingerprint="") for s in sources]
        running.cancel_all()
        for generation in generations:
            assert await read(generation) == [Chunk("", FinishReason.CANCELLED)]

    run(test)


def test_words_are_counted_with_the_space_before_them() -> None:
    assert [num_words(text) for text in ("", "a", " a  b ", "a\nb")] == [0, 1, 3, 2]
