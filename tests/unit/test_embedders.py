"""Tests which embedding models are in memory, with fake loaders that need no files."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast
from unittest.mock import patch

import pytest
from workers_ai_emulator.engine.errors import CapacityExceeded, EngineError
from workers_ai_emulator.engine.types import SamplingParams
from workers_ai_emulator.errors import WeightsUnusable
from workers_ai_emulator.models.catalog import CATALOG
from workers_ai_emulator.models.spec import ModelSpec
from workers_ai_emulator.models.store import Weights
from workers_ai_emulator.runtime.embedder_loader import EmbedderLoader
from workers_ai_emulator.runtime.embedders import Embedders
from workers_ai_emulator.runtime.loader import Loader
from workers_ai_emulator.runtime.model_manager import ModelManager
from workers_ai_emulator.settings import Settings

from tests.fake_loader import SIZE, FakeLoader
from tests.fakes import FakeRunner
from tests.loop import TIMEOUT_S, in_loop

NAMES = ("@cf/a/one", "@cf/a/two", "@cf/a/three")
ONE, TWO, THREE = (ModelSpec(name, Path(f"{name[-3:]}.gguf")) for name in NAMES)
RERANKER = CATALOG["@cf/baai/bge-reranker-base"]
TEXT_MODEL = ModelSpec("@cf/a/text", Path("text.gguf"))


@dataclass
class FakeOpenEmbedder:
    spec: ModelSpec
    weights: Weights
    max_runners: int
    size: int
    is_closed: bool = False

    def check_task(self, spec: ModelSpec) -> None:
        if spec.embedding is not self.spec.embedding:
            raise WeightsUnusable(f"{self.weights.path} has another task")

    def memory(self, num_runners: int) -> int:
        return num_runners * self.size

    def num_runners(self, free: int) -> int:
        return min(free // self.size, self.max_runners)

    def close(self) -> None:
        self.is_closed = True


@dataclass
class FakeEmbedder:
    """An embedder without threads. `gate`: while it is not set, `close` does not return."""

    has_ended: bool = True
    is_closed: bool = False
    num_cancels: int = 0
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.gate.set()

    def cancel_all(self) -> None:
        self.num_cancels += 1

    @property
    def is_running(self) -> bool:
        return not (self.is_closed and self.has_ended)

    async def close(self) -> bool:
        self.is_closed = True
        await self.gate.wait()
        return self.has_ended


@dataclass
class FakeEmbedderLoader:
    """A loader that needs no files. `failures`: the errors of the next calls of `open`.

    `trusted`: the files that are treated as the stand-in model's.
    While `gate` is not set, `open` does not return. `has_ended`: whether threads end at `close`.
    `on_load`: is called at the end of each load. `size`: the memory of each model.
    """

    failures: list[Exception] = field(default_factory=list)
    trusted: set[Path] = field(default_factory=set)
    opened: list[FakeOpenEmbedder] = field(default_factory=list)
    embedders: list[FakeEmbedder] = field(default_factory=list)
    gate: threading.Event = field(default_factory=threading.Event)
    has_ended: bool = True
    max_runners: int = 1
    size: int = SIZE
    is_machine_free: Callable[[], bool] = bool
    on_load: Callable[[], object] = lambda: None

    def __post_init__(self) -> None:
        self.gate.set()

    def weights(self, spec: ModelSpec) -> Weights:
        return Weights(spec.weights_file, is_trusted=spec.weights_file in self.trusted)

    def open(self, spec: ModelSpec, weights: Weights) -> FakeOpenEmbedder:
        assert self.gate.wait(TIMEOUT_S)
        if self.failures:
            raise self.failures.pop(0)
        self.opened.append(FakeOpenEmbedder(spec, weights, self.max_runners, self.size))
        return self.opened[-1]

    def embedder(
        self, opened: FakeOpenEmbedder, num_runners: int, is_machine_free: Callable[[], bool]
    ) -> FakeEmbedder:
        self.is_machine_free = is_machine_free
        self.on_load()
        self.embedders.append(FakeEmbedder(self.has_ended))
        return self.embedders[-1]


@asynccontextmanager
async def managing(
    loader: FakeEmbedderLoader,
    *,
    memory_limit: int = 2 * SIZE,
    text_loader: FakeLoader | None = None,
    stall_timeout: float = 60,
) -> AsyncIterator[tuple[Embedders, ModelManager]]:
    settings = Settings(memory_limit=memory_limit, stall_timeout=stall_timeout)
    catalog = {TEXT_MODEL.name: TEXT_MODEL}
    models = ModelManager(settings, catalog, loader=cast(Loader, text_loader or FakeLoader()))
    embedders = Embedders(settings, models, loader=cast(EmbedderLoader, loader))
    try:
        yield embedders, models
    finally:
        await embedders.close()
        await models.close()


async def use(embedders: Embedders, *specs: ModelSpec) -> None:
    for spec in specs:
        async with embedders.lease(spec):
            pass


def problems_of_the_loop() -> list[object]:
    """Returns a list that gets the errors that asyncio would log."""
    problems: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, problem: problems.append(problem))
    return problems


def open_names(loader: FakeEmbedderLoader) -> list[str]:
    return [opened.spec.name for opened in loader.opened if not opened.is_closed]


@in_loop
async def test_simultaneous_requests_load_a_model_once() -> None:
    loader = FakeEmbedderLoader()
    async with managing(loader) as (embedders, _):
        await asyncio.gather(*(use(embedders, ONE) for _ in range(4)))
        assert embedders.memory == SIZE
    assert len(loader.opened) == len(loader.embedders) == 1
    assert loader.opened[0].is_closed and loader.embedders[0].is_closed


def test_the_log_names_the_weights_of_each_model_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    twin = replace(ONE, name="@cf/a/twin")

    @in_loop
    async def use_models() -> None:
        loader = FakeEmbedderLoader(trusted={TWO.weights_file})
        async with managing(loader) as (embedders, _):
            await use(embedders, ONE, TWO, twin, ONE)
            assert await embedders.unload_idle()
            await use(embedders, TWO, twin)

    use_models()
    assert [line for line in caplog.messages if " runs on " in line] == [
        "@cf/a/one runs on one",
        "@cf/a/two has no weights of its own: it runs on two",
        "@cf/a/twin runs on one",
    ]


@in_loop
async def test_models_with_the_same_weights_share_an_embedder() -> None:
    loader = FakeEmbedderLoader()
    twin = replace(ONE, name="@cf/a/twin")
    async with (
        managing(loader) as (embedders, _),
        embedders.lease(ONE) as one,
        embedders.lease(twin) as other,
    ):
        assert one.embedder is other.embedder


@in_loop
async def test_a_model_with_another_task_cannot_share_the_weights() -> None:
    reranker = replace(ONE, name="@cf/a/reranker", embedding=RERANKER.embedding)
    async with managing(FakeEmbedderLoader()) as (embedders, _):
        await use(embedders, ONE)
        for _ in range(2):
            with pytest.raises(WeightsUnusable, match="has another task"):
                await use(embedders, reranker)
        await use(embedders, ONE)


@in_loop
async def test_a_loaded_model_keeps_its_weights_although_others_are_installed() -> None:
    newer = replace(ONE, weights_file=Path("new.gguf"))
    async with (
        managing(FakeEmbedderLoader()) as (embedders, _),
        embedders.lease(ONE) as loaded,
        embedders.lease(newer) as other,
    ):
        assert loaded is other


@in_loop
async def test_the_least_recently_used_idle_model_is_unloaded() -> None:
    loader = FakeEmbedderLoader()
    async with managing(loader) as (embedders, _):
        await use(embedders, ONE, TWO, ONE, THREE)
        assert open_names(loader) == [ONE.name, THREE.name]


@in_loop
async def test_a_leased_model_is_not_unloaded() -> None:
    loader = FakeEmbedderLoader()
    async with managing(loader, memory_limit=SIZE) as (embedders, _):
        async with embedders.lease(ONE):
            with pytest.raises(CapacityExceeded):
                await use(embedders, TWO)
            assert open_names(loader) == [ONE.name]
        await use(embedders, TWO)
        assert open_names(loader) == [TWO.name]


@in_loop
async def test_an_idle_text_model_is_unloaded_for_an_embedding_model() -> None:
    async with managing(FakeEmbedderLoader(), memory_limit=SIZE) as (embedders, models):
        await models.load(TEXT_MODEL)
        await use(embedders, ONE)
        assert not models.loaded and embedders.memory == SIZE


@in_loop
async def test_a_busy_text_model_is_not_unloaded_for_an_embedding_model() -> None:
    async with managing(FakeEmbedderLoader(), memory_limit=SIZE) as (embedders, models):
        async with models.lease(TEXT_MODEL):
            with pytest.raises(CapacityExceeded):
                await use(embedders, ONE)
        await use(embedders, ONE)


@in_loop
async def test_the_memory_of_a_text_model_is_taken_while_its_engine_is_stuck() -> None:
    runner = FakeRunner(block_at=3, can_be_interrupted=False)  # the first two calls are the check
    text_loader = FakeLoader(runner_of=lambda: runner)
    async with managing(
        FakeEmbedderLoader(), memory_limit=SIZE, text_loader=text_loader, stall_timeout=0.2
    ) as (embedders, models):
        async with models.lease(TEXT_MODEL) as loaded:
            with pytest.raises(EngineError, match="nothing done"):
                async for _ in loaded.engine.submit([1], SamplingParams(max_tokens=4)):
                    pass
        with patch("workers_ai_emulator.engine.engine._CLOSE_LIMIT_S", 0.1):
            assert await models.unload_idle()
        with pytest.raises(CapacityExceeded):
            await use(embedders, ONE)
        runner.gate.set()
        while loaded.engine.is_running:
            await asyncio.sleep(0.01)
        await use(embedders, ONE)


@in_loop
async def test_an_idle_embedding_model_is_unloaded_for_a_text_model() -> None:
    loader = FakeEmbedderLoader()
    async with managing(loader, memory_limit=SIZE) as (embedders, models):
        await use(embedders, ONE)
        await models.load(TEXT_MODEL)
        assert models.loaded_model(TEXT_MODEL) and open_names(loader) == []


@in_loop
async def test_a_busy_embedding_model_is_not_unloaded_for_a_text_model() -> None:
    async with managing(FakeEmbedderLoader(), memory_limit=SIZE) as (embedders, models):
        async with embedders.lease(ONE):
            with pytest.raises(CapacityExceeded):
                await models.load(TEXT_MODEL)
        await models.load(TEXT_MODEL)


@in_loop
async def test_embedding_models_count_towards_the_memory_limit() -> None:
    async with managing(FakeEmbedderLoader(), memory_limit=3 * SIZE) as (embedders, models):
        await use(embedders, ONE)
        await models.load(TEXT_MODEL)
        assert models.free_memory == SIZE


async def waiting_for_memory(
    loader: FakeEmbedderLoader, embedders: Embedders
) -> asyncio.Task[None]:
    """Returns a task that uses the model ONE, and waits until the model needs memory."""
    task = asyncio.create_task(use(embedders, ONE))
    while not loader.opened:
        await asyncio.sleep(0)
    return task


@in_loop
async def test_the_memory_of_a_text_model_is_taken_while_it_is_being_loaded() -> None:
    loader, runner = FakeEmbedderLoader(), FakeRunner(block_at=1)  # call 1 is in the warm-up
    text_loader = FakeLoader(runner_of=lambda: runner)
    async with (
        managing(loader, memory_limit=SIZE, text_loader=text_loader) as (embedders, models),
        asyncio.TaskGroup() as tasks,
    ):
        is_done = asyncio.Event()

        async def generate() -> None:
            async with models.lease(TEXT_MODEL):
                await is_done.wait()

        tasks.create_task(generate())
        assert await asyncio.to_thread(runner.is_blocked.wait, TIMEOUT_S)
        assert models.free_memory == 0
        embedding = await waiting_for_memory(loader, embedders)
        runner.gate.set()
        with pytest.raises(CapacityExceeded):
            await embedding
        is_done.set()


@in_loop
async def test_an_embedding_model_that_is_being_loaded_takes_no_memory_of_a_text_model() -> None:
    loader = FakeEmbedderLoader()
    loader.gate.clear()
    async with managing(loader, memory_limit=SIZE) as (embedders, models):
        embedding = asyncio.create_task(use(embedders, ONE))
        async with models.lease(TEXT_MODEL):
            loader.gate.set()
            with pytest.raises(CapacityExceeded):
                await embedding
        await use(embedders, ONE)


@in_loop
async def test_an_embedding_model_gets_the_memory_of_a_text_model_whose_load_fails() -> None:
    loader, runner = FakeEmbedderLoader(), FakeRunner(block_at=1, fail_at={1})
    text_loader = FakeLoader(runner_of=lambda: runner)
    async with managing(loader, memory_limit=SIZE, text_loader=text_loader) as (embedders, models):
        text = asyncio.create_task(models.load(TEXT_MODEL))
        assert await asyncio.to_thread(runner.is_blocked.wait, TIMEOUT_S)
        embedding = await waiting_for_memory(loader, embedders)
        runner.gate.set()
        with pytest.raises(WeightsUnusable, match="does not compute"):
            await text
        await embedding


@in_loop
async def test_a_model_gets_as_many_runners_as_fit_into_memory() -> None:
    loader = FakeEmbedderLoader(max_runners=3)
    async with managing(loader, memory_limit=2 * SIZE) as (embedders, _):
        await use(embedders, ONE)
        assert embedders.memory == 2 * SIZE


@in_loop
async def test_a_model_larger_than_the_limit_is_an_error_with_the_next_step() -> None:
    loader = FakeEmbedderLoader()
    async with managing(loader, memory_limit=SIZE - 1) as (embedders, _):
        with pytest.raises(WeightsUnusable, match=r"one needs .* free: raise --memory,"):
            await use(embedders, ONE)
    assert loader.opened[0].is_closed


@in_loop
async def test_a_model_larger_than_the_limit_unloads_no_other_and_waits_for_none() -> None:
    loader = FakeEmbedderLoader()
    async with managing(loader, memory_limit=SIZE) as (embedders, _):
        await use(embedders, ONE)
        loader.size = 2 * SIZE
        with pytest.raises(WeightsUnusable, match="two needs"):
            await use(embedders, TWO)
        assert open_names(loader) == [ONE.name]
        async with embedders.lease(ONE):
            with pytest.raises(WeightsUnusable, match="two needs"):
                await use(embedders, TWO)


@in_loop
async def test_a_failed_load_is_repeated_for_the_next_request() -> None:
    loader = FakeEmbedderLoader(failures=[WeightsUnusable("broken")])
    async with managing(loader) as (embedders, _):
        with pytest.raises(WeightsUnusable, match="broken"):
            await use(embedders, ONE)
        await use(embedders, ONE)


@in_loop
async def test_a_cancelled_request_neither_ends_the_load_nor_keeps_the_model_busy() -> None:
    loader = FakeEmbedderLoader()
    loader.gate.clear()
    async with managing(loader, memory_limit=SIZE) as (embedders, _):
        request = asyncio.create_task(use(embedders, ONE))
        await asyncio.sleep(0)
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        loader.gate.set()
        await use(embedders, ONE)
        assert len(loader.opened) == 1
        await use(embedders, TWO)
        assert open_names(loader) == [TWO.name]


@in_loop
async def test_requests_that_are_cancelled_begin_no_further_load() -> None:
    loader = FakeEmbedderLoader()
    loader.gate.clear()
    problems = problems_of_the_loop()
    async with managing(loader, memory_limit=SIZE) as (embedders, _):
        specs = [ONE, TWO, THREE] * 20
        left = [asyncio.create_task(use(embedders, spec)) for spec in specs]
        await asyncio.sleep(0)
        for request in left:
            request.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        loader.gate.set()
        await use(embedders, THREE, ONE)
    assert [opened.spec for opened in loader.opened] == [ONE, THREE, ONE]
    assert problems == []


@in_loop
async def test_a_request_that_is_cancelled_at_the_end_of_its_load_does_not_keep_the_model() -> None:
    loader = FakeEmbedderLoader()
    async with managing(loader, memory_limit=SIZE) as (embedders, _):
        request = asyncio.create_task(use(embedders, ONE))
        loader.on_load = request.cancel
        with pytest.raises(asyncio.CancelledError):
            await request
        await use(embedders, TWO)
        assert open_names(loader) == [TWO.name]


@in_loop
async def test_closing_ends_the_requests_that_wait_for_a_load() -> None:
    loader = FakeEmbedderLoader()
    loader.gate.clear()
    async with managing(loader) as (embedders, _):
        request = asyncio.create_task(use(embedders, ONE))
        await asyncio.sleep(0)
        await embedders.close()
        loader.gate.set()
        with pytest.raises(asyncio.CancelledError):
            await request


@in_loop
async def test_the_requests_that_wait_for_a_model_keep_it_loaded() -> None:
    loader = FakeEmbedderLoader()
    loader.gate.clear()
    async with managing(loader, memory_limit=SIZE) as (embedders, _):
        waiting = [asyncio.create_task(use(embedders, ONE)) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        loader.gate.set()
        async with embedders.lease(ONE) as loaded:
            await asyncio.gather(*waiting, return_exceptions=True)
            assert loaded.num_leases == 1
        assert loaded.num_leases == 0


@in_loop
async def test_a_cancelled_request_whose_load_fails_logs_nothing() -> None:
    loader = FakeEmbedderLoader(failures=[WeightsUnusable("broken")])
    loader.gate.clear()
    problems = problems_of_the_loop()
    async with managing(loader) as (embedders, _):
        request = asyncio.create_task(use(embedders, ONE))
        await asyncio.sleep(0)
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        loader.gate.set()
        await use(embedders, TWO)
    assert problems == []


@in_loop
async def test_weights_that_a_thread_still_uses_are_not_freed() -> None:
    loader = FakeEmbedderLoader(has_ended=False)
    async with managing(loader) as (embedders, _):
        await use(embedders, ONE)
    assert loader.embedders[0].is_closed and not loader.opened[0].is_closed


@in_loop
async def test_the_memory_of_weights_that_a_thread_still_uses_is_taken() -> None:
    loader = FakeEmbedderLoader(has_ended=False)
    async with managing(loader, memory_limit=SIZE) as (embedders, models):
        await use(embedders, ONE)
        with pytest.raises(CapacityExceeded):
            await use(embedders, TWO)
        with pytest.raises(CapacityExceeded):
            await models.load(TEXT_MODEL)
        assert embedders.memory == SIZE and models.free_memory == 0
        loader.embedders[0].has_ended = loader.has_ended = True
        await use(embedders, TWO)
        assert open_names(loader) == [TWO.name] and embedders.memory == SIZE


@in_loop
async def test_another_idle_model_is_unloaded_if_a_thread_still_uses_the_first() -> None:
    loader = FakeEmbedderLoader()
    async with managing(loader, memory_limit=2 * SIZE) as (embedders, _):
        await use(embedders, ONE, TWO)
        loader.embedders[0].has_ended = False
        await use(embedders, THREE)
        assert open_names(loader) == [ONE.name, THREE.name]
        assert embedders.memory == 2 * SIZE


@in_loop
async def test_a_text_model_waits_until_the_memory_of_an_embedding_model_is_freed() -> None:
    loader, text_loader = FakeEmbedderLoader(), FakeLoader()
    async with managing(loader, memory_limit=SIZE, text_loader=text_loader) as (embedders, models):
        await use(embedders, ONE)
        loader.embedders[0].gate.clear()
        unloading = asyncio.create_task(embedders.unload_idle())
        await asyncio.sleep(0)
        assert models.free_memory == 0
        load = asyncio.create_task(models.load(TEXT_MODEL))
        while not text_loader.opened:
            await asyncio.sleep(0)
        loader.embedders[0].gate.set()
        assert await unloading
        await load


@in_loop
async def test_all_requests_of_all_models_can_be_cancelled() -> None:
    loader = FakeEmbedderLoader()
    async with managing(loader) as (embedders, _):
        await use(embedders, ONE, TWO)
        embedders.cancel_all()
    assert [embedder.num_cancels for embedder in loader.embedders] == [1, 1]


@in_loop
async def test_the_machine_is_free_while_no_generation_runs() -> None:
    loader, runner = FakeEmbedderLoader(), FakeRunner(block_at=3)  # the first two calls: the check
    text_loader = FakeLoader(runner_of=lambda: runner)
    async with managing(loader, text_loader=text_loader) as (embedders, models):
        await models.load(TEXT_MODEL)
        await use(embedders, ONE)
        assert loader.is_machine_free()
        async with models.lease(TEXT_MODEL) as loaded:
            generation = loaded.engine.submit([1, 2, 3], SamplingParams(max_tokens=4))
            assert not loader.is_machine_free()
            runner.gate.set()
            assert len([chunk async for chunk in generation]) == 4
