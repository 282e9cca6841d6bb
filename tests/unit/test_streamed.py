"""A generation over an async generator: ends once, in every case, and closes its source."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable

import pytest
from workers_ai_emulator.backends.streamed import StreamedGeneration, Streams, num_words
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
    """Gives the items, raising those that are errors, then waits for ever if it is endless."""

    def __init__(self, *items: Item, is_endless: bool = False) -> None:
        self.items = items
        self.is_endless = is_endless
        self.num_given = 0
        self.is_closed = asyncio.Event()

    async def __call__(self) -> AsyncGenerator[Chunk | Usage]:
        try:
            for item in self.items:
                if isinstance(item, BaseException):
                    raise item
                self.num_given += 1
                yield item
            if self.is_endless:
                await asyncio.Event().wait()
        finally:
            self.is_closed.set()


def begin(source: Source) -> StreamedGeneration:
    return StreamedGeneration(source(), num_prompt_tokens=3, fingerprint="x")


async def read(generation: StreamedGeneration) -> list[Chunk]:
    return [chunk async for chunk in generation]


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(LIMIT_S):
            await test()

    asyncio.run(limited())


def test_chunks_come_in_order_and_each_counts_as_a_token() -> None:
    async def test() -> None:
        source = Source(Chunk("a"), Chunk("b"), END)
        generation = begin(source)
        assert await read(generation) == [Chunk("a"), Chunk("b"), END]
        assert generation.usage == Usage(3, 3)
        assert generation.finish_reason is FinishReason.STOP
        await source.is_closed.wait()

    run(test)


def test_a_usage_from_the_source_holds() -> None:
    async def test() -> None:
        generation = begin(Source(Chunk("a"), Usage(17, 5, 2), END))
        await read(generation)
        assert generation.usage == Usage(17, 5, 2)

    run(test)


@pytest.mark.parametrize("error", [CapacityExceeded(), EngineError("broken")])
def test_a_known_error_reaches_the_reader_as_it_is(error: EngineError) -> None:
    async def test() -> None:
        source = Source(Chunk("a"), error)
        with pytest.raises(type(error)) as caught:
            await read(begin(source))
        assert caught.value is error
        await source.is_closed.wait()

    run(test)


def test_an_unknown_error_is_an_engine_error_with_its_text(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def test() -> None:
        with pytest.raises(EngineError, match="surprise"):
            await read(begin(Source(ZeroDivisionError("surprise"))))

    run(test)
    assert "ZeroDivisionError" in caplog.text


def test_a_source_that_just_stops_is_an_error() -> None:
    async def test() -> None:
        with pytest.raises(EngineError, match="without a finish reason"):
            await read(begin(Source(Chunk("a"))))

    run(test)


def test_a_cancel_ends_the_reader_and_closes_the_source() -> None:
    async def test() -> None:
        source = Source(Chunk("a"), is_endless=True)
        generation = begin(source)
        chunks = aiter(generation)
        assert await anext(chunks) == Chunk("a")
        generation.cancel()
        assert await anext(chunks) == Chunk("", FinishReason.CANCELLED)
        assert generation.finish_reason is FinishReason.CANCELLED
        await source.is_closed.wait()

    run(test)


def test_a_cancel_before_the_first_step_ends_the_reader() -> None:
    async def test() -> None:
        source = Source(Chunk("a"), END)
        generation = begin(source)
        generation.cancel()
        assert await read(generation) == [Chunk("", FinishReason.CANCELLED)]
        assert source.num_given == 0

    run(test)


def test_a_cancel_after_the_end_changes_nothing() -> None:
    async def test() -> None:
        generation = begin(Source(END))
        await read(generation)
        generation.cancel()
        assert generation.finish_reason is FinishReason.STOP

    run(test)


def test_time_that_is_up_raises_and_closes_the_source() -> None:
    async def test() -> None:
        source = Source(is_endless=True)
        generation = begin(source)
        generation.cancel_after(0.01)
        with pytest.raises(DeadlineExceeded):
            await read(generation)
        await source.is_closed.wait()

    run(test)


def test_a_reader_that_waits_stops_the_source_and_can_still_cancel() -> None:
    async def test() -> None:
        source = Source(*[Chunk("a")] * 5000, END)
        generation = begin(source)
        chunks = aiter(generation)
        await anext(chunks)
        assert source.num_given < 5000
        generation.cancel()
        await source.is_closed.wait()
        assert [chunk async for chunk in chunks][-1] == Chunk("", FinishReason.CANCELLED)

    run(test)


def test_a_slow_reader_gets_everything() -> None:
    async def test() -> None:
        generation = begin(Source(*[Chunk("a")] * 5000, END))
        assert len(await read(generation)) == 5001

    run(test)


def test_all_of_a_backend_are_cancelled_at_once() -> None:
    async def test() -> None:
        streams = Streams()
        sources = [Source(is_endless=True) for _ in range(3)]
        begun = [streams.begin(s(), num_prompt_tokens=1, fingerprint="") for s in sources]
        streams.cancel_all()
        for generation in begun:
            assert await read(generation) == [Chunk("", FinishReason.CANCELLED)]

    run(test)


def test_a_word_is_counted_with_the_space_before_it() -> None:
    assert [num_words(text) for text in ("", "a", " a  b ", "a\nb")] == [0, 1, 3, 2]
