"""Tests which models are in memory, with a fake loader that needs no files."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import cast
from unittest.mock import patch

import pytest
from workers_ai_emulator.engine.errors import CapacityExceeded, EngineError
from workers_ai_emulator.engine.types import SamplingParams
from workers_ai_emulator.errors import SettingInvalid, WeightsUnusable
from workers_ai_emulator.models.catalog import ModelSpec
from workers_ai_emulator.runtime import model_manager
from workers_ai_emulator.runtime.loader import Loader
from workers_ai_emulator.runtime.model_manager import ModelManager
from workers_ai_emulator.settings import Settings

from tests.fake_loader import SIZE, FakeLoader
from tests.fakes import FakeRunner
from tests.loop import TIMEOUT_S, in_loop

NAMES = ("@cf/a/one", "@cf/a/two", "@cf/a/three")
CATALOG = {name: ModelSpec(name, Path(f"{name.rsplit('/', 1)[-1]}.gguf")) for name in NAMES}
ONE, TWO, THREE = CATALOG.values()


@asynccontextmanager
async def managing(
    loader: FakeLoader,
    *,
    memory_limit: int = 2 * SIZE,
    preload: tuple[str, ...] = (),
    stall_timeout: float = 60,
) -> AsyncIterator[ModelManager]:
    settings = Settings(memory_limit=memory_limit, preload=preload, stall_timeout=stall_timeout)
    manager = ModelManager(settings, CATALOG, loader=cast(Loader, loader))
    try:
        yield manager
    finally:
        await manager.close()


def short_close() -> AbstractContextManager[object]:
    """Makes an engine wait only shortly for its thread to end when it is closed."""
    return patch("workers_ai_emulator.engine.engine._CLOSE_LIMIT_S", 0.1)


def names(manager: ModelManager) -> list[str]:
    return [weights.name for weights in manager.loaded]


@in_loop
async def test_the_start_loads_the_first_model_of_the_catalogue() -> None:
    async with managing(FakeLoader()) as manager:
        assert manager.phase == "starting"
        await manager.start()
        assert (names(manager), manager.phase) == ([ONE.name], "ready")


@in_loop
async def test_the_start_loads_the_models_to_preload() -> None:
    async with managing(FakeLoader(), preload=(TWO.name, THREE.name)) as manager:
        await manager.start()
        assert names(manager) == [TWO.name, THREE.name]


@in_loop
async def test_a_name_to_preload_must_be_in_the_catalogue() -> None:
    async with managing(FakeLoader(), preload=("@cf/a/four",)) as manager:
        with pytest.raises(SettingInvalid, match="--preload: no model is called @cf/a/four: "):
            await manager.start()


@in_loop
async def test_simultaneous_leases_load_a_model_once() -> None:
    loader = FakeLoader()

    async def lease(manager: ModelManager) -> str:
        async with manager.lease(ONE) as loaded:
            return loaded.spec.name

    async with managing(loader) as manager:
        assert not manager.loaded_model(ONE)
        assert await asyncio.gather(*(lease(manager) for _ in range(4))) == [ONE.name] * 4
        assert manager.loaded_model(ONE)
    assert len(loader.opened) == 1


@in_loop
async def test_the_least_recently_used_idle_model_is_unloaded() -> None:
    loader = FakeLoader()
    async with managing(loader) as manager:
        for spec in (ONE, TWO, ONE):
            async with manager.lease(spec):
                pass
        await manager.load(THREE)
        assert names(manager) == [ONE.name, THREE.name]
    assert [opened.template.is_closed for opened in loader.opened] == [True] * 3


@in_loop
async def test_the_memory_of_a_model_is_taken_until_it_is_unloaded() -> None:
    free = []
    async with managing(FakeLoader(), memory_limit=SIZE) as manager:
        await manager.load(ONE)
        (weights,) = manager.loaded
        close = weights.engine.close

        async def closing() -> None:
            free.append(manager.free_memory)
            await close()

        with patch.object(weights.engine, "close", closing):
            assert await manager.unload_idle()
        assert (free, manager.free_memory) == ([0], SIZE)


@in_loop
async def test_the_memory_of_a_model_whose_engine_is_stuck_is_taken_until_the_engine_ends() -> None:
    runner = FakeRunner(block_at=3, can_be_interrupted=False)  # the first two calls are the check
    loader = FakeLoader(runner_of=lambda: runner)
    async with managing(loader, memory_limit=SIZE, stall_timeout=0.2) as manager:
        async with manager.lease(ONE) as loaded:
            with pytest.raises(EngineError, match="nothing done"):
                async for _ in loaded.engine.submit([1], SamplingParams(max_tokens=4)):
                    pass
        with short_close():
            assert await manager.unload_idle()
        assert names(manager) == [] and manager.free_memory == 0
        with pytest.raises(CapacityExceeded):
            await manager.load(TWO)
        runner.gate.set()
        while loaded.engine.is_running:
            await asyncio.sleep(0.01)
        assert manager.free_memory == SIZE


@in_loop
async def test_a_leased_model_is_not_unloaded() -> None:
    async with managing(FakeLoader(), memory_limit=SIZE) as manager, manager.lease(ONE):
        with pytest.raises(CapacityExceeded):
            await manager.load(TWO)
        assert names(manager) == [ONE.name]


@in_loop
async def test_a_model_with_requests_is_not_unloaded() -> None:
    runner = FakeRunner(block_at=3)  # the first two calls are the check at the start
    async with managing(FakeLoader(runner_of=lambda: runner), memory_limit=SIZE) as manager:
        async with manager.lease(ONE) as loaded:
            generation = loaded.engine.submit([1, 2, 3], SamplingParams(max_tokens=4))
        with pytest.raises(CapacityExceeded):
            await manager.load(TWO)
        runner.gate.set()
        assert len([chunk async for chunk in generation]) == 4


@in_loop
async def test_a_model_larger_than_the_limit_unloads_no_other() -> None:
    loader = FakeLoader()
    async with managing(loader, memory_limit=SIZE - 1) as manager:
        with pytest.raises(WeightsUnusable, match="do not fit into 99"):
            await manager.load(ONE)
    assert loader.opened[0].is_closed


@in_loop
async def test_models_with_the_same_weights_share_an_engine() -> None:
    loader = FakeLoader()
    twin = replace(ONE, name="@cf/a/twin")
    async with managing(loader, memory_limit=SIZE) as manager:
        async with manager.lease(ONE) as one, manager.lease(twin) as other:
            assert one.engine is other.engine and one.template is other.template
            assert (one.spec, other.spec) == (ONE, twin)
        assert names(manager) == [ONE.name] and manager.loaded_model(twin)
        await manager.load(TWO)
        assert names(manager) == [TWO.name]
        assert not manager.loaded_model(ONE) and not manager.loaded_model(twin)
    assert len(loader.opened) == 2


@in_loop
async def test_different_paths_to_the_same_file_share_an_engine() -> None:
    loader = FakeLoader()
    link = replace(TWO, weights_file=Path("link.gguf"))
    loader.targets[Path("link.gguf")] = ONE.weights_file
    async with managing(loader) as manager:
        await asyncio.gather(manager.load(ONE), manager.load(link))
        assert manager.loaded_model(ONE) and manager.loaded_model(link)
    assert len(loader.opened) == 1


@in_loop
async def test_a_model_keeps_the_weights_that_another_model_leases() -> None:
    twin = replace(ONE, name="@cf/a/twin", stand_in="Q8_0")
    async with managing(FakeLoader(), memory_limit=SIZE) as manager:
        await manager.load(ONE)
        async with manager.lease(twin):
            with pytest.raises(CapacityExceeded):
                await manager.load(TWO)


@in_loop
async def test_a_model_with_its_own_template_shares_only_the_engine() -> None:
    loader = FakeLoader()
    own = replace(ONE, name="@cf/a/own", chat_template="{{ messages }}")
    async with managing(loader) as manager:
        async with manager.lease(ONE) as one, manager.lease(own) as other:
            assert one.engine is other.engine and one.template is not other.template
        await manager.load(replace(own, name="@cf/a/same"))
    assert len(loader.opened) == len(loader.templates) == 1
    assert loader.templates[0].is_closed and loader.opened[0].template.is_closed


@in_loop
async def test_a_model_with_another_context_length_has_its_own_engine() -> None:
    loader = FakeLoader()
    async with managing(loader) as manager:
        await manager.load(ONE)
        await manager.load(replace(ONE, name="@cf/a/short", context_length=256))
    assert len(loader.opened) == 2


def test_the_log_names_the_weights_of_each_model_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")

    @in_loop
    async def lease_models() -> None:
        async with managing(FakeLoader(trusted={TWO.weights_file})) as manager:
            for spec in (ONE, TWO, ONE, TWO, replace(ONE, name="@cf/not/listed")):
                async with manager.lease(spec):
                    pass

    lease_models()
    assert [line for line in caplog.messages if " runs on " in line] == [
        "@cf/a/one runs on one",
        "@cf/a/two has no weights of its own: it runs on two",
    ]


@in_loop
async def test_a_failed_load_is_raised_and_the_next_load_tries_again() -> None:
    loader = FakeLoader(failures=[WeightsUnusable("damaged")])
    async with managing(loader) as manager:
        with pytest.raises(WeightsUnusable, match="damaged"):
            await manager.load(ONE)
        await manager.load(ONE)
        assert names(manager) == [ONE.name]


@in_loop
async def test_a_model_that_cannot_generate_is_closed() -> None:
    runner = FakeRunner(fail_at={1}, error=EngineError("no numbers"))
    loader = FakeLoader(runner_of=lambda: runner)
    async with managing(loader) as manager:
        with pytest.raises(WeightsUnusable, match="does not compute: no numbers"):
            await manager.load(ONE)
        assert names(manager) == []
    assert runner.is_closed
    assert loader.opened[0].template.is_closed


@in_loop
async def test_a_model_whose_first_decode_call_gets_stuck_does_not_block_other_loads() -> None:
    runners = [FakeRunner(block_at=1, can_be_interrupted=False), FakeRunner()]
    stuck = runners[0]
    loader = FakeLoader(runner_of=lambda: runners.pop(0))
    async with managing(loader, stall_timeout=0.2) as manager:
        short_limit = patch.object(model_manager, "_MIN_WARM_UP_LIMIT_S", 0)
        stuck_load = pytest.raises(WeightsUnusable, match=r"not compute: .* got nothing done")
        with short_limit, short_close(), stuck_load:
            await manager.load(ONE)
        assert manager.free_memory == SIZE
        await manager.load(TWO)
        assert names(manager) == [TWO.name]
        stuck.gate.set()
        while manager.free_memory < SIZE:  # the engine's thread must not outlive the event loop
            await asyncio.sleep(0.01)


@in_loop
async def test_a_load_that_fails_while_room_is_made_for_another_model_frees_memory() -> None:
    runner = FakeRunner(block_at=1, fail_at={1})
    async with managing(FakeLoader(runner_of=lambda: runner)) as manager:
        load = asyncio.create_task(manager.load(ONE))
        assert await asyncio.to_thread(runner.is_blocked.wait, TIMEOUT_S)
        assert manager.free_memory == SIZE
        unloading = asyncio.create_task(manager.unload_idle())
        await asyncio.sleep(0)  # lets `unload_idle` start, which waits until the load ends
        runner.gate.set()
        assert await unloading
        assert manager.free_memory == 2 * SIZE
        with pytest.raises(WeightsUnusable):
            await load


@in_loop
async def test_a_cancelled_lease_does_not_cancel_the_load() -> None:
    async with managing(FakeLoader()) as manager:
        waiting = asyncio.create_task(manager.load(ONE))
        await asyncio.sleep(0)  # lets the load start
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await manager.load(ONE)
        assert names(manager) == [ONE.name]


@in_loop
async def test_cancel_all_ends_the_requests_of_every_model() -> None:
    runners: list[FakeRunner] = []

    def blocking() -> FakeRunner:
        runners.append(FakeRunner(block_at=3))
        return runners[-1]

    async with managing(FakeLoader(runner_of=blocking)) as manager:
        generations = []
        for spec in (ONE, TWO):
            async with manager.lease(spec) as loaded:
                generations.append(loaded.engine.submit([1], SamplingParams(max_tokens=400)))
        manager.cancel_all()
        for generation in generations:
            last = [chunk async for chunk in generation][-1]
            assert last.finish_reason is not None and last.finish_reason.value == "cancelled"


@in_loop
async def test_the_failure_of_an_engine_is_the_managers_failure() -> None:
    async with managing(FakeLoader()) as manager, manager.lease(ONE) as loaded:
        assert manager.failure is None
        loaded.engine.failure = "it hangs"
        assert manager.failure == "it hangs"


@in_loop
async def test_closing_closes_every_runner() -> None:
    runner = FakeRunner()
    async with managing(FakeLoader(runner_of=lambda: runner)) as manager:
        await manager.load(ONE)
    assert runner.is_closed
