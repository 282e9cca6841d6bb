"""Tests the threads that compute embeddings, with a fake model."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import numpy as np
import pytest
from workers_ai_emulator.engine import embedder as module
from workers_ai_emulator.engine.embedder import Embedder
from workers_ai_emulator.engine.errors import (
    CapacityExceeded,
    EngineClosed,
    EngineError,
    Interrupted,
)
from workers_ai_emulator.engine.pooling import Pooling
from workers_ai_emulator.engine.vector_cache import Vector

from tests.loop import TIMEOUT_S, in_loop

BROKEN, BUGGY = 666, 667


@dataclass
class FakeModel:
    """What the fake runners of all threads share.

    `shared_length`: how many tokens the texts that share a call may have together. `calls`: the
    first tokens of the texts of each call. `texts`: the first token of each text that was begun,
    and the number of threads. `gate`: while it is not set, calls that have begun do not end.
    `begun`: counts texts. `interrupted`: counts calls. `is_deaf`: whether runners ignore
    interrupts. `num_open`: the number of runners that are not closed.
    """

    shared_length: int = 0
    calls: list[list[int]] = field(default_factory=list)
    texts: list[tuple[int, int]] = field(default_factory=list)
    gate: threading.Event = field(default_factory=threading.Event)
    begun: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    interrupted: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    is_deaf: bool = False
    num_open: int = 0

    def runner(self) -> FakeTextRunner:
        self.num_open += 1
        return FakeTextRunner(self)


class FakeTextRunner:
    """Returns a text's tokens as its embedding."""

    def __init__(self, model: FakeModel) -> None:
        self._model = model
        self._is_interrupted = False

    def can_share_call(self, lengths: Sequence[int], pooling: Pooling) -> bool:
        return sum(lengths) <= self._model.shared_length

    def embed(
        self, texts: Sequence[Sequence[int]], pooling: Pooling, num_threads: int
    ) -> list[Vector]:
        self._model.calls.append([tokens[0] for tokens in texts])
        for tokens in texts:
            self._model.texts.append((tokens[0], num_threads))
            self._model.begun.release()
        while not self._model.gate.wait(0.001):
            if self._is_interrupted and not self._model.is_deaf:
                self._model.interrupted.release()
                raise Interrupted("interrupted")
        if any(tokens[0] == BROKEN for tokens in texts):
            raise EngineError("it is broken")
        if any(tokens[0] == BUGGY for tokens in texts):
            raise ValueError("a mistake in the code")
        return [np.array(tokens, np.float32) for tokens in texts]

    def interrupt(self, *, is_requested: bool) -> None:
        self._is_interrupted = is_requested

    def close(self) -> None:
        self._model.num_open -= 1


@asynccontextmanager
async def running(
    model: FakeModel,
    *,
    num_runners: int = 2,
    num_threads: int | None = None,
    queue_size: int = 8,
    is_machine_free: Callable[[], bool] = lambda: False,
) -> AsyncIterator[Embedder]:
    embedder = Embedder(
        model.runner,
        num_runners=num_runners,
        num_threads=num_threads or num_runners,
        queue_size=queue_size,
        is_machine_free=is_machine_free,
    )
    try:
        yield embedder
    finally:
        model.gate.set()
        await embedder.close()


async def begun(model: FakeModel, count: int) -> None:
    """Waits until further `count` texts have begun."""
    for _ in range(count):
        assert await asyncio.to_thread(model.begun.acquire, timeout=TIMEOUT_S)


async def submitted(
    embedder: Embedder, texts: Sequence[Sequence[int]], pooling: Pooling = Pooling.MEAN
) -> asyncio.Task[list[Vector]]:
    """Starts a request, and returns its task when the request is in the queue."""
    task = asyncio.create_task(embedder.embed(texts, pooling))
    await asyncio.sleep(0)
    return task


async def begun_request(model: FakeModel, embedder: Embedder) -> asyncio.Task[list[Vector]]:
    """Starts a request with the text `[0]`, and returns its task when a runner computes it."""
    task = await submitted(embedder, [[0]])
    await begun(model, 1)
    return task


@in_loop
async def test_embeddings_have_the_order_of_the_texts() -> None:
    model = FakeModel()
    model.gate.set()
    async with running(model, num_runners=4) as embedder:
        vectors = await embedder.embed([[n, n + 1] for n in range(50)], Pooling.CLS)
    assert [vector.tolist() for vector in vectors] == [[n, n + 1] for n in range(50)]


@in_loop
async def test_embeddings_of_recent_texts_are_not_computed_again() -> None:
    model = FakeModel()
    model.gate.set()
    async with running(model, num_runners=1) as embedder:
        await embedder.embed([[1], [2]], Pooling.MEAN)
        vectors = await embedder.embed([[3], [2], [4], [1]], Pooling.MEAN)
        assert [vector.tolist() for vector in vectors] == [[3], [2], [4], [1]]
        assert [first for first, _ in model.texts] == [1, 2, 3, 4]
        await embedder.embed([[1]], Pooling.CLS)
    assert [first for first, _ in model.texts] == [1, 2, 3, 4, 1]


@in_loop
async def test_a_text_that_failed_is_computed_again() -> None:
    model = FakeModel()
    model.gate.set()
    async with running(model, num_runners=1) as embedder:
        for _ in range(2):
            with pytest.raises(EngineError):
                await embedder.embed([[BROKEN]], Pooling.MEAN)
    assert [first for first, _ in model.texts] == [BROKEN, BROKEN]


@in_loop
async def test_equal_texts_of_a_request_are_computed_once() -> None:
    model = FakeModel()
    model.gate.set()
    async with running(model, num_runners=1) as embedder:
        vectors = await embedder.embed([[1], [2], [1], [1]], Pooling.MEAN)
    assert [vector.tolist() for vector in vectors] == [[1], [2], [1], [1]]
    assert [first for first, _ in model.texts] == [1, 2]


@in_loop
async def test_embeddings_of_a_request_with_very_many_tokens_are_not_kept() -> None:
    model = FakeModel()
    model.gate.set()
    async with running(model, num_runners=1) as embedder:
        for _ in range(2):
            await embedder.embed([[1] * 50_000, [2]], Pooling.MEAN)
            await embedder.embed([[3] * 49_999, [4]], Pooling.MEAN)
    assert [first for first, _ in model.texts] == [1, 2, 3, 4, 1, 2]


def test_the_memory_of_the_kept_embeddings_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CACHE_BYTES", 1000)  # enough for two embeddings of this test
    model = FakeModel()
    model.gate.set()

    @in_loop
    async def embed() -> None:
        async with running(model, num_runners=1) as embedder:
            for token in (1, 2, 3, 2, 1):
                await embedder.embed([[token]], Pooling.MEAN)

    embed()
    assert [first for first, _ in model.texts] == [1, 2, 3, 1]


@in_loop
async def test_no_texts_have_no_embeddings() -> None:
    async with running(FakeModel()) as embedder:
        assert await embedder.embed([], Pooling.MEAN) == []


@in_loop
async def test_requests_take_turns() -> None:
    model = FakeModel()
    async with running(model, num_runners=1) as embedder:
        first = await submitted(embedder, [[1], [2], [3]])
        await begun(model, 1)
        second = await submitted(embedder, [[11], [12], [13]])
        model.gate.set()
        await asyncio.gather(first, second)
    assert [text for text, _ in model.texts] == [1, 2, 11, 3, 12, 13]


@in_loop
async def test_short_texts_share_calls() -> None:
    model = FakeModel(shared_length=6)
    model.gate.set()
    async with running(model, num_runners=1) as embedder:
        vectors = await embedder.embed([[1, 1], [2, 2], [3, 3], [4] * 5, [5, 5]], Pooling.MEAN)
        assert [len(vector) for vector in vectors] == [2, 2, 2, 5, 2]
    assert model.calls == [[1, 2, 3], [4], [5]]


@in_loop
async def test_texts_of_several_requests_take_turns_in_shared_calls() -> None:
    model = FakeModel(shared_length=3)
    async with running(model, num_runners=1) as embedder:
        tasks = [await begun_request(model, embedder)]
        for n in (10, 20):
            tasks.append(await submitted(embedder, [[n], [n + 1], [n + 2]]))
        model.gate.set()
        results = await asyncio.gather(*tasks)
    assert model.calls == [[0], [10, 20, 11], [21, 12, 22]]
    assert [[int(vector[0]) for vector in vectors] for vectors in results[1:]] == [
        [10, 11, 12],
        [20, 21, 22],
    ]


@pytest.mark.parametrize(("num_texts", "sizes"), [(2, [1, 1]), (5, [2, 3]), (12, [4, 4, 4])])
def test_idle_runners_share_the_texts(num_texts: int, sizes: list[int]) -> None:
    model = FakeModel(shared_length=4)

    @in_loop
    async def embed() -> None:
        async with running(model, num_runners=2) as embedder:
            task = await submitted(embedder, [[n] for n in range(num_texts)])
            await begun(model, sum(sizes[:2]))
            model.gate.set()
            await task

    embed()
    assert sorted(map(len, model.calls)) == sizes


@in_loop
async def test_texts_with_different_poolings_do_not_share_a_call() -> None:
    model = FakeModel(shared_length=9)
    async with running(model, num_runners=1) as embedder:
        tasks = [await begun_request(model, embedder)]
        for token, pooling in ((2, Pooling.CLS), (3, Pooling.MEAN), (4, Pooling.MEAN)):
            tasks.append(await submitted(embedder, [[token]], pooling))
        model.gate.set()
        await asyncio.gather(*tasks)
    assert model.calls == [[0], [2], [3, 4]]


@in_loop
async def test_a_shared_call_is_stopped_when_nobody_waits_for_it() -> None:
    model = FakeModel(shared_length=9)
    async with running(model, num_runners=1) as embedder:
        first = await begun_request(model, embedder)
        one, other = [await submitted(embedder, [[n]]) for n in (2, 3)]
        first.cancel()
        assert await asyncio.to_thread(model.interrupted.acquire, timeout=TIMEOUT_S)
        await begun(model, 2)
        one.cancel()
        await asyncio.sleep(0.02)
        assert not model.interrupted.acquire(blocking=False)
        other.cancel()
        assert await asyncio.to_thread(model.interrupted.acquire, timeout=TIMEOUT_S)
    assert model.calls == [[0], [2, 3]]


@in_loop
async def test_a_text_does_not_fail_because_of_another_in_its_call() -> None:
    model = FakeModel(shared_length=9)
    async with running(model, num_runners=1) as embedder:
        first = await begun_request(model, embedder)
        failing, good = [await submitted(embedder, [[n]]) for n in (BROKEN, 2)]
        model.gate.set()
        assert [vector.tolist() for vector in await good] == [[2]]
        with pytest.raises(EngineError, match="it is broken"):
            await failing
        await first
    assert model.calls == [[0], [BROKEN, 2], [BROKEN], [2]]


@in_loop
async def test_as_many_requests_as_the_queue_size_wait_for_a_runner() -> None:
    await _check_that_requests_wait(queue_size=0)
    await _check_that_requests_wait(queue_size=2)


async def _check_that_requests_wait(queue_size: int) -> None:
    model = FakeModel()
    async with running(model, num_runners=1, queue_size=queue_size) as embedder:
        tasks = [await submitted(embedder, [[n]]) for n in range(1 + queue_size)]
        with pytest.raises(CapacityExceeded):
            await embedder.embed([[3]], Pooling.MEAN)
        model.gate.set()
        await asyncio.gather(*tasks)
        assert len(await embedder.embed([[3]], Pooling.MEAN)) == 1


@pytest.mark.parametrize(("is_free", "num_threads"), [(True, 3), (False, 1)])
def test_a_lone_text_uses_all_threads_if_no_generation_runs(
    is_free: bool, num_threads: int
) -> None:
    model = FakeModel()
    model.gate.set()

    @in_loop
    async def embed() -> None:
        async with running(model, num_runners=3, is_machine_free=lambda: is_free) as embedder:
            await embedder.embed([[1]], Pooling.MEAN)

    embed()
    assert model.texts == [(1, num_threads)]


@in_loop
async def test_a_text_beside_others_uses_one_thread() -> None:
    model = FakeModel()
    async with running(model, is_machine_free=lambda: True) as embedder:
        texts = await submitted(embedder, [[1], [2]])
        await begun(model, 2)
        other = await submitted(embedder, [[3]])
        model.gate.set()
        await asyncio.gather(texts, other)
    assert {num_threads for text, num_threads in model.texts if text < 3} == {1}


@in_loop
async def test_a_few_runners_share_the_threads() -> None:
    model = FakeModel()
    model.gate.set()
    async with running(model, num_runners=2, num_threads=5) as embedder:
        await embedder.embed([[1], [2], [3]], Pooling.MEAN)
    assert {num_threads for _, num_threads in model.texts} == {2}


@in_loop
async def test_a_cancelled_request_stops_its_texts_and_drops_the_rest() -> None:
    model = FakeModel()
    async with running(model, queue_size=0) as embedder:
        cancelled = await submitted(embedder, [[n] for n in range(5)])
        await begun(model, 2)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        for _ in range(2):
            assert await asyncio.to_thread(model.interrupted.acquire, timeout=TIMEOUT_S)
        others = [await submitted(embedder, [[n]]) for n in (7, 8)]
        model.gate.set()
        await asyncio.gather(*others)
    assert sorted(text for text, _ in model.texts) == [0, 1, 7, 8]


@in_loop
async def test_a_result_that_is_ready_after_a_cancellation_is_dropped() -> None:
    problems: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, problem: problems.append(problem))
    model = FakeModel(is_deaf=True)
    async with running(model) as embedder:
        task = await begun_request(model, embedder)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert problems == []


@in_loop
async def test_a_cancelled_request_does_not_stop_another() -> None:
    model = FakeModel()
    async with running(model) as embedder:
        one = await submitted(embedder, [[1]])
        other = await submitted(embedder, [[2]])
        await begun(model, 2)
        one.cancel()
        assert await asyncio.to_thread(model.interrupted.acquire, timeout=TIMEOUT_S)
        model.gate.set()
        assert [vector.tolist() for vector in await other] == [[2]]


@pytest.mark.parametrize(
    ("token", "message"), [(BROKEN, "it is broken"), (BUGGY, "a mistake in the code")]
)
def test_an_error_ends_its_request_but_no_other(token: int, message: str) -> None:
    model = FakeModel()

    @in_loop
    async def embed() -> None:
        async with running(model) as embedder:
            failing = await submitted(embedder, [[token], [1], [2], [3]])
            other = await submitted(embedder, [[4]])
            model.gate.set()
            with pytest.raises(EngineError, match=message):
                await failing
            assert len(await other) == 1
            assert len(await embedder.embed([[5]], Pooling.MEAN)) == 1

    embed()


@in_loop
async def test_closing_ends_computing_and_waiting_requests() -> None:
    model = FakeModel()
    async with running(model) as embedder:
        tasks = [await submitted(embedder, [[n]]) for n in range(4)]
        await begun(model, 2)
        assert await embedder.close()
        for task in tasks:
            with pytest.raises(EngineClosed):
                await task
        with pytest.raises(EngineClosed):
            await embedder.embed([[1]], Pooling.MEAN)
    assert len(model.texts) == 2


@in_loop
async def test_closing_frees_each_runner_once() -> None:
    model = FakeModel()
    embedder = Embedder(model.runner, num_runners=3, num_threads=3, queue_size=1)
    assert model.num_open == 3
    await embedder.close()
    assert model.num_open == 0


@in_loop
async def test_cancelling_all_requests_leaves_the_embedder_usable() -> None:
    model = FakeModel()
    async with running(model) as embedder:
        task = await submitted(embedder, [[1], [2], [3]])
        await begun(model, 2)
        embedder.cancel_all()
        with pytest.raises(EngineClosed):
            await task
        model.gate.set()
        assert len(await embedder.embed([[4]], Pooling.MEAN)) == 1


def test_a_thread_keeps_its_memory_until_it_ends(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_CLOSE_LIMIT_S", 0.01)
    model = FakeModel(is_deaf=True)

    @in_loop
    async def close() -> None:
        embedder = Embedder(model.runner, num_runners=1, num_threads=1, queue_size=1)
        task = await submitted(embedder, [[1]])
        await begun(model, 1)
        assert not await embedder.close()
        with pytest.raises(EngineClosed):
            await task
        assert model.num_open == 1 and embedder.is_running
        model.gate.set()
        while embedder.is_running:
            await asyncio.sleep(0.001)

    close()
    assert model.num_open == 0
    assert caplog.messages == ["1 threads still compute embeddings: their memory is not freed"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has priorities of threads")
@pytest.mark.parametrize(("nice", "of_threads"), [(0, 5), (4, 9), (15, 19)])
def test_the_threads_have_a_lower_priority_than_the_process(
    nice: int, of_threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted: list[int] = []
    monkeypatch.setattr(os, "getpriority", lambda which, thread: nice)
    monkeypatch.setattr(os, "setpriority", lambda which, thread, value: wanted.append(value))
    model = FakeModel()
    model.gate.set()

    @in_loop
    async def embed() -> None:
        async with running(model, num_runners=1) as embedder:
            await embedder.embed([[1]], Pooling.MEAN)

    embed()
    assert wanted == [of_threads]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has priorities of threads")
def test_texts_are_embedded_although_the_system_refuses_a_lower_priority(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(which: int, thread: int, value: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "setpriority", refuse)
    model = FakeModel()
    model.gate.set()

    @in_loop
    async def embed() -> None:
        async with running(model, num_runners=2) as embedder:
            vectors = await embedder.embed([[1], [2]], Pooling.MEAN)
            assert [vector[0] for vector in vectors] == [1, 2]

    embed()
    (line,) = caplog.messages
    assert "refuses a lower one: [Errno 1] Operation not permitted" in line
