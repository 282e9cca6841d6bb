"""From a model's name to its running engine: loaded when needed, unloaded when others need room."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ParamSpec, TypeVar, cast

from workers_ai_emulator import machine
from workers_ai_emulator.engine.errors import CapacityExceeded, EngineError
from workers_ai_emulator.engine.types import FinishReason, SamplingParams
from workers_ai_emulator.errors import SettingInvalid, WeightsUnusable
from workers_ai_emulator.models.catalog import ModelSpec
from workers_ai_emulator.prompts.chat import ChatTemplate
from workers_ai_emulator.settings import Settings

if TYPE_CHECKING:  # slow to import, and not needed for a server that computes nothing
    from workers_ai_emulator.engine.engine import Engine
    from workers_ai_emulator.models.store import Weights
    from workers_ai_emulator.runtime.loader import Loader, OpenModel

log = logging.getLogger(__name__)

_T = TypeVar("_T")
_P = ParamSpec("_P")


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model that answers: its engine, and the template that makes its prompts.

    `memory`: bytes it takes at most.
    """

    spec: ModelSpec
    weights: Weights
    engine: Engine
    template: ChatTemplate
    memory: int

    async def close(self) -> None:
        """Stop the engine and free everything."""
        await self.engine.close()
        self.template.close()


class ModelManager:
    """All models of the catalogue; methods belong to the event loop.

    `phase` says in a word what the start is doing; it ends as `ready`.
    """

    def __init__(self, settings: Settings, catalog: Mapping[str, ModelSpec]) -> None:
        self._settings = settings
        self.catalog = catalog
        self._loaded: dict[str, LoadedModel] = {}  # least recently used first
        self._loading: dict[str, asyncio.Task[LoadedModel]] = {}
        self._num_leases: Counter[str] = Counter()
        self._one_at_a_time = asyncio.Lock()
        self._memory_limit = settings.memory_limit or machine.available_memory()
        self.phase = "starting"

    @property
    def loaded(self) -> list[LoadedModel]:
        """The models that are in memory."""
        return list(self._loaded.values())

    @property
    def failure(self) -> str | None:
        """Why a model that is in memory cannot compute, if so."""
        return next((m.engine.failure for m in self.loaded if m.engine.failure), None)

    def is_loaded(self, spec: ModelSpec) -> bool:
        return spec.name in self._loaded

    @cached_property
    def _loader(self) -> Loader:
        from workers_ai_emulator.runtime.loader import Loader

        return Loader(self._settings)

    async def start(self) -> None:
        """Load the models that a start waits for, and let each generate a token.

        Raises SettingInvalid or WeightsUnusable.
        """
        names = self._settings.preload or (next(iter(self.catalog)),)
        if unknown := [name for name in names if name not in self.catalog]:
            raise SettingInvalid(
                f"--preload: no model is called {unknown[0]}: `workers-ai-emulator models list` "
                "shows the names"
            )
        for name in names:
            await self._get(self.catalog[name])
        self.phase = "ready"

    @asynccontextmanager
    async def lease(self, spec: ModelSpec) -> AsyncIterator[LoadedModel]:
        """The running model, loaded if need be, once for all who ask; it stays until the exit.

        After that it stays as long as it has requests. Raises WeightsUnusable, or CapacityExceeded
        where models that are busy take the memory it needs.
        """
        self._num_leases[spec.name] += 1
        try:
            loaded = await self._get(spec)
            self._loaded[spec.name] = self._loaded.pop(spec.name)  # used last
            yield loaded
        finally:
            self._num_leases[spec.name] -= 1

    def cancel_all(self) -> None:
        """Cancel every request that has not ended."""
        for model in self.loaded:
            model.engine.cancel_all()

    async def close(self) -> None:
        """Stop all engines and free their memory."""
        for task in self._loading.values():
            task.cancel()
        await asyncio.gather(*(model.close() for model in self.loaded))

    async def load(self, spec: ModelSpec) -> None:
        """Bring the model into memory. Raises as `lease` does."""
        await self._get(spec)

    async def _get(self, spec: ModelSpec) -> LoadedModel:
        if loaded := self._loaded.get(spec.name):
            return loaded
        task = self._loading.get(spec.name)
        if task is None:
            task = self._loading[spec.name] = asyncio.create_task(self._load(spec))
            task.add_done_callback(lambda task: self._forget(spec, task))
        return await asyncio.shield(task)  # others may wait for it too

    def _forget(self, spec: ModelSpec, task: asyncio.Task[LoadedModel]) -> None:
        """The next request tries again. An error is for those who wait; there may be none."""
        del self._loading[spec.name]
        if not task.cancelled():
            task.exception()

    async def _load(self, spec: ModelSpec) -> LoadedModel:
        from workers_ai_emulator.engine.engine import Engine
        from workers_ai_emulator.runtime.loader import TILING

        async with self._one_at_a_time:
            start = time.monotonic()
            self._enter(f"loading {spec.name}")
            opened = await _in_thread(self._loader.open, spec)
            try:
                num_slots = await self._make_room(opened)
                runner = await _in_thread(self._loader.runner, opened, num_slots)
            except Exception:
                opened.close()
                raise
            self._enter(f"warming up {spec.name}")
            engine = Engine(
                runner,
                queue_size=self._settings.queue_size,
                tiling=TILING,
                snapshot_tokens=opened.snapshot_tokens,
                name=spec.name,
            )
            memory = opened.memory(num_slots)
            loaded = LoadedModel(spec, opened.weights, engine, opened.template, memory)
            try:
                await _generate_token(engine)
            except EngineError as error:
                await loaded.close()
                raise WeightsUnusable(
                    f"{opened.weights.path} loads but does not compute: {error}"
                ) from error
            engine.watch(self._settings.stall_timeout)
            self._loaded[spec.name] = loaded
            elapsed_s = time.monotonic() - start
            log.info("%s runs on %s after %.1f s", spec.name, opened.weights.name, elapsed_s)
            return loaded

    async def _make_room(self, opened: OpenModel) -> int:
        """How many slots the model gets; idle models are unloaded if it does not fit beside them.

        Raises WeightsUnusable, or CapacityExceeded where only busy models are in the way.
        """
        if not self._loader.num_slots(opened, self._memory_limit):
            raise self._loader.memory_error(opened, self._memory_limit)
        while not (num_slots := self._loader.num_slots(opened, self._free_memory())):
            idle = [model for model in self.loaded if self._is_idle(model)]
            if not idle and self._loaded:
                raise CapacityExceeded
            if not idle:
                raise self._loader.memory_error(opened, self._free_memory())
            del self._loaded[idle[0].spec.name]
            log.info("unloading %s to make room", idle[0].spec.name)
            await idle[0].close()
        return num_slots

    def _is_idle(self, model: LoadedModel) -> bool:
        return model.engine.is_idle and not self._num_leases[model.spec.name]

    def _free_memory(self) -> int:
        """Bytes for one more model. Weights that are mapped count as free until they are used."""
        taken = sum(model.memory for model in self.loaded)
        return min(self._memory_limit - taken, machine.available_memory())

    def _enter(self, phase: str) -> None:
        if self.phase != "ready":
            self.phase = phase


async def _generate_token(engine: Engine) -> None:
    """A model is ready when it has really generated."""
    prompt_tokens = engine.vocabulary.tokenize("Hello")
    async for chunk in engine.submit(prompt_tokens, SamplingParams(max_tokens=2, temperature=0.0)):
        assert chunk.finish_reason is not FinishReason.CANCELLED


async def _in_thread(function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """The function's result, from a thread that no end of the process waits for.

    Loading takes as long as the disk does, and llama.cpp cannot be interrupted.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[_T] = loop.create_future()

    def settle(result: _T | None, error: Exception | None) -> None:
        if future.cancelled():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(cast(_T, result))

    def run() -> None:
        result, error = None, None
        try:
            result = function(*args, **kwargs)
        except Exception as raised:
            error = raised
        with suppress(RuntimeError):  # the loop may have ended meanwhile
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=run, name=f"load-{function.__name__}", daemon=True).start()
    return await future
