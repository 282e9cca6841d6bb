"""Loads models on demand, and unloads idle models if another model needs their memory."""

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
from workers_ai_emulator.errors import ModelPartMissing, SettingInvalid, WeightsUnusable
from workers_ai_emulator.models.catalog import ModelSpec
from workers_ai_emulator.settings import Settings

if TYPE_CHECKING:  # only the backend `llama` needs these modules, and their import is slow
    from workers_ai_emulator.engine.engine import Engine
    from workers_ai_emulator.models.store import Weights
    from workers_ai_emulator.prompts.chat import ChatTemplate
    from workers_ai_emulator.runtime.loader import Loader, OpenModel

log = logging.getLogger(__name__)

_T = TypeVar("_T")
_P = ParamSpec("_P")


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in memory, with its engine and its chat template.

    `memory`: the maximum number of bytes of main memory that the model takes.
    """

    spec: ModelSpec
    weights: Weights
    engine: Engine
    template: ChatTemplate
    memory: int

    async def close(self) -> None:
        """Stops the engine and frees the model."""
        await self.engine.close()
        self.template.close()


class ModelManager:
    """Loads and unloads the models of a catalogue.

    All methods must be called on the event loop's thread. `catalog`: all models that the server
    serves. `phase`: during the start, what the server does, such as `loading NAME`; then `ready`.
    The endpoint `readyz` returns this text. `loader`: a replacement for `Loader` in tests,
    otherwise None.
    """

    def __init__(
        self,
        settings: Settings,
        catalog: Mapping[str, ModelSpec],
        *,
        loader: Loader | None = None,
    ) -> None:
        self._settings = settings
        self.catalog = catalog
        self._given_loader = loader
        self._loaded: dict[str, LoadedModel] = {}  # the least recently used model comes first
        self._loading: dict[str, asyncio.Task[LoadedModel]] = {}
        self._num_leases: Counter[str] = Counter()
        self._load_lock = asyncio.Lock()
        self._memory_limit = settings.memory_limit or machine.available_memory()
        self.phase = "starting"

    @property
    def loaded(self) -> list[LoadedModel]:
        """The loaded models, least recently used first."""
        return list(self._loaded.values())

    @property
    def failure(self) -> str | None:
        """The error text of the first engine that is stuck; None if no engine is stuck."""
        return next((m.engine.failure for m in self.loaded if m.engine.failure), None)

    def is_loaded(self, spec: ModelSpec) -> bool:
        return spec.name in self._loaded

    @cached_property
    def _loader(self) -> Loader:
        try:
            from workers_ai_emulator.runtime.loader import Loader
        except ModuleNotFoundError as error:
            raise ModelPartMissing.of(error) from error
        return self._given_loader or Loader(self._settings)

    async def start(self) -> None:
        """Loads the models of the setting `--preload`; by default the catalogue's first model.

        Raises SettingInvalid if a name is unknown, and WeightsUnusable if a model cannot be loaded.
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
        """Yields a loaded model, which is not unloaded during the `with` block.

        If the model is not loaded yet, loads it first. Simultaneous calls of this method load it
        only once. After the block, the model stays loaded at least until its requests have ended.
        Raises WeightsUnusable if the model cannot be loaded, and CapacityExceeded if busy models
        take the memory that it needs.
        """
        self._num_leases[spec.name] += 1
        try:
            loaded = await self._get(spec)
            # Moves the model to the end of the dict: it is the most recently used model.
            self._loaded[spec.name] = self._loaded.pop(spec.name)
            yield loaded
        finally:
            self._num_leases[spec.name] -= 1

    def cancel_all(self) -> None:
        """Cancels all waiting and running requests of all models."""
        for model in self.loaded:
            model.engine.cancel_all()

    async def close(self) -> None:
        """Stops all engines and frees the memory of all models."""
        for task in self._loading.values():
            task.cancel()
        await asyncio.gather(*(model.close() for model in self.loaded))

    async def load(self, spec: ModelSpec) -> None:
        """Loads the model into memory, if it is not loaded yet.

        Raises WeightsUnusable if the model cannot be loaded, and CapacityExceeded if busy models
        take the memory that it needs.
        """
        await self._get(spec)

    async def _get(self, spec: ModelSpec) -> LoadedModel:
        if loaded := self._loaded.get(spec.name):
            return loaded
        task = self._loading.get(spec.name)
        if task is None:
            task = self._loading[spec.name] = asyncio.create_task(self._load(spec))
            task.add_done_callback(lambda task: self._end_load(spec, task))
        return await asyncio.shield(task)  # if one caller is cancelled, the load continues

    def _end_load(self, spec: ModelSpec, task: asyncio.Task[LoadedModel]) -> None:
        """Removes the task of an ended load. After a failed load, a later request can then retry.

        Also reads the task's exception, because asyncio logs exceptions that no code has read.
        """
        del self._loading[spec.name]
        if not task.cancelled():
            task.exception()

    async def _load(self, spec: ModelSpec) -> LoadedModel:
        async with self._load_lock:
            start = time.monotonic()
            self._set_phase(f"loading {spec.name}")
            opened = await _in_thread(self._loader.open, spec)
            loaded = await self._start_engine(opened)
            self._set_phase(f"warming up {spec.name}")
            await _check_computes(loaded)
            loaded.engine.watch(self._settings.stall_timeout)
            self._loaded[spec.name] = loaded
            elapsed_s = time.monotonic() - start
            log.info("%s runs on %s after %.1f s", spec.name, opened.weights.name, elapsed_s)
            return loaded

    async def _start_engine(self, opened: OpenModel) -> LoadedModel:
        from workers_ai_emulator.engine.engine import Engine
        from workers_ai_emulator.runtime.loader import TILING

        try:
            num_slots = await self._make_room(opened)
            runner = await _in_thread(self._loader.runner, opened, num_slots)
        except Exception:
            opened.close()
            raise
        engine = Engine(
            runner,
            queue_size=self._settings.queue_size,
            tiling=TILING,
            snapshot_tokens=opened.snapshot_tokens,
            drafts=self._settings.drafts and runner.can_draft,
            name=opened.spec.name,
        )
        memory = opened.memory(num_slots)
        return LoadedModel(opened.spec, opened.weights, engine, opened.template, memory)

    async def _make_room(self, opened: OpenModel) -> int:
        """Unloads idle models until the new model fits into memory.

        Returns the number of slots for the new model. Raises WeightsUnusable if the model does not
        fit even without other models, and CapacityExceeded if busy models take the memory.
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
            log.info("unloading %s to free memory", idle[0].spec.name)
            await idle[0].close()
        return num_slots

    def _is_idle(self, model: LoadedModel) -> bool:
        return model.engine.is_idle and not self._num_leases[model.spec.name]

    def _free_memory(self) -> int:
        """Returns how many bytes of memory another model may take.

        The result is the smaller of two numbers: the machine's free memory, and the memory limit
        minus the sizes of all loaded models. The second number is needed because the operating
        system counts memory-mapped weights as free memory until they have been read.
        """
        taken = sum(model.memory for model in self.loaded)
        return min(self._memory_limit - taken, machine.available_memory())

    def _set_phase(self, phase: str) -> None:
        if self.phase != "ready":
            self.phase = phase


async def _check_computes(loaded: LoadedModel) -> None:
    """Checks that a loaded model can generate two tokens.

    If it cannot, closes the model and raises WeightsUnusable.
    """
    prompt_tokens = loaded.engine.vocabulary.tokenize("Hello")
    params = SamplingParams(max_tokens=2, temperature=0.0)
    try:
        async for chunk in loaded.engine.submit(prompt_tokens, params):
            assert chunk.finish_reason is not FinishReason.CANCELLED
    except EngineError as error:
        await loaded.close()
        raise WeightsUnusable(
            f"{loaded.weights.path} loads but does not compute: {error}"
        ) from error


async def _in_thread(function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Calls a function on a daemon thread and returns its result.

    A daemon thread does not delay the exit of the process. With `asyncio.to_thread`, the exit would
    wait until the function returns. That can take long while llama.cpp loads a model from a slow
    disk.
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
        with suppress(RuntimeError):  # the event loop may be closed already
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=run, name=f"load-{function.__name__}", daemon=True).start()
    return await future
