"""Loads models on demand, and unloads idle models if another model needs their memory."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from workers_ai_emulator import machine
from workers_ai_emulator.engine.errors import CapacityExceeded, EngineError
from workers_ai_emulator.engine.types import FinishReason, SamplingParams, WeightsType
from workers_ai_emulator.errors import (
    ModelPartMissing,
    ModelUnknown,
    SettingInvalid,
    WeightsUnusable,
)
from workers_ai_emulator.models.catalog import ModelSpec, find_spec
from workers_ai_emulator.runtime.daemon_thread import in_daemon_thread
from workers_ai_emulator.settings import Settings

if TYPE_CHECKING:  # only the backend `llama` needs these modules, and their import is slow
    from workers_ai_emulator.engine.engine import Engine
    from workers_ai_emulator.models.store import Weights
    from workers_ai_emulator.prompts.chat import ChatTemplate
    from workers_ai_emulator.runtime.loader import Loader, OpenModel

log = logging.getLogger(__name__)

# The minimum of the time limit for each of the first two decode calls, which may have to read the
# weights from a slow disk.
_MIN_WARM_UP_LIMIT_S = 600.0


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in memory, with its engine and its chat template.

    Models with the same weights have the same engine. `memory`: the maximum number of bytes of main
    memory that the weights and the engine take.
    """

    spec: ModelSpec
    weights: Weights
    engine: Engine
    template: ChatTemplate
    memory: int


class _Source(NamedTuple):
    """The fields of a model spec that decide which engine and chat template the model gets."""

    weights_file: Path
    stand_in: WeightsType | None
    context_length: int | None
    chat_template: str | None

    @classmethod
    def of(cls, spec: ModelSpec) -> _Source:
        return cls(spec.weights_file, spec.stand_in, spec.context_length, spec.chat_template)


class _Key(NamedTuple):
    """Models with the same key share an engine: they have the same file and context length."""

    path: Path
    context_length: int | None


@dataclass(frozen=True, slots=True)
class LoadedWeights:
    """Weights in memory, with an engine that several models may share.

    `memory`: the maximum number of bytes of main memory that they take. `templates`: the chat
    templates of the models. The keys are the texts of the templates in `models.toml`; the key of
    the weights' own template is None.
    """

    key: _Key
    opened: OpenModel
    engine: Engine
    memory: int
    templates: dict[str | None, ChatTemplate]

    @property
    def name(self) -> str:
        """The name of the model for which the weights were loaded."""
        return self.opened.spec.name

    def model(self, spec: ModelSpec) -> LoadedModel:
        """Returns one of the models that share the weights."""
        template = self.templates[spec.chat_template]
        return LoadedModel(spec, self.opened.weights, self.engine, template, self.memory)

    async def close(self) -> None:
        """Stops the engine and frees the weights."""
        await self.engine.close()
        for template in self.templates.values():
            template.close()


class OtherModels(Protocol):
    """Models that another object loads, and which use the same memory.

    `memory`: the bytes of memory that the models take, until they are freed.
    """

    @property
    def memory(self) -> int: ...

    async def unload_idle(self) -> bool:
        """Unloads the least recently used idle model. Returns whether memory was freed."""


class ModelManager:
    """Loads and unloads the models of a catalogue. Models with the same weights share an engine.

    All methods must be called on the event loop's thread. `catalog`: all models that the server
    serves. `phase`: during the start, what the server does, such as `loading NAME`; then `ready`.
    The endpoint `readyz` returns this text. `memory_limit`: how many bytes of memory all models may
    take, including embedding models. `loader`: a replacement for `Loader` in tests,
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
        self._loaded: dict[_Key, LoadedWeights] = {}  # the least recently used weights come first
        self._by_source: dict[_Source, LoadedWeights] = {}
        self._loading: dict[_Source, asyncio.Task[LoadedWeights]] = {}
        self._num_leases: Counter[_Source] = Counter()
        self._logged_names: set[str] = set()
        self._load_lock = asyncio.Lock()
        self.memory_limit = (
            machine.available_memory() if settings.memory_limit is None else settings.memory_limit
        )
        self._reserved_memory = 0  # of the weights that are being loaded and have no engine yet
        # The weights with an engine that are being loaded or unloaded, or whose engine is stuck.
        self._unlisted: list[LoadedWeights] = []
        self._others: OtherModels | None = None
        self.phase = "starting"

    @property
    def loaded(self) -> list[LoadedWeights]:
        """The loaded weights, least recently used first."""
        return list(self._loaded.values())

    @property
    def failure(self) -> str | None:
        """The error text of the first engine that is stuck; None if no engine is stuck."""
        return next((w.engine.failure for w in self.loaded if w.engine.failure), None)

    @property
    def is_idle(self) -> bool:
        """Whether no generation waits or runs. Any thread may read it."""
        return all(weights.engine.is_idle for weights in self.loaded)

    def share_memory(self, others: OtherModels) -> None:
        """Sets the models that also count towards the memory limit, and may be unloaded."""
        self._others = others

    async def unload_idle(self) -> bool:
        """Unloads the least recently used idle weights. Returns whether memory was freed.

        Waits until no model is being loaded, because a load can use weights that look idle. Unloads
        nothing if memory was freed during this time, for example because a load failed.
        """
        taken = self.taken_memory
        async with self._load_lock:
            return self.taken_memory < taken or await self._unload_idle()

    def loaded_model(self, spec: ModelSpec) -> LoadedModel | None:
        """Returns the model if it is loaded, otherwise None. It may be unloaded at any time."""
        weights = self._by_source.get(_Source.of(spec))
        return weights.model(spec) if weights else None

    @cached_property
    def _loader(self) -> Loader:
        try:
            from workers_ai_emulator.runtime.loader import Loader
        except ModuleNotFoundError as error:
            raise ModelPartMissing.of(error) from error
        return self._given_loader or Loader(self._settings)

    def check_installed(self) -> None:
        """Raises ModelPartMissing if a package that runs models is not installed."""
        _ = self._loader

    def to_preload(self) -> list[ModelSpec]:
        """Returns the models of the setting `--preload`; by default the catalogue's first model.

        Raises SettingInvalid if a name is unknown.
        """
        names = self._settings.preload or (next(iter(self.catalog)),)
        try:
            return [find_spec(self.catalog, name) for name in names]
        except ModelUnknown as error:
            raise SettingInvalid(f"--preload: {error}") from error

    async def start(self) -> None:
        """Loads the models of the setting `--preload` that generate text.

        Raises SettingInvalid if a name is unknown, and WeightsUnusable if a model cannot be loaded.
        """
        for spec in self.to_preload():
            if spec.embedding is None:
                await self._get(spec)
        self.phase = "ready"

    @asynccontextmanager
    async def lease(self, spec: ModelSpec) -> AsyncIterator[LoadedModel]:
        """Yields a loaded model, which is not unloaded during the `with` block.

        If the model is not loaded yet, loads it first. Simultaneous calls of this method load it
        only once. After the block, the model stays loaded at least until its requests have ended.
        Raises WeightsUnusable if the model cannot be loaded, and CapacityExceeded if busy models
        take the memory that it needs.
        """
        source = _Source.of(spec)
        self._num_leases[source] += 1
        try:
            weights = await self._get(spec)
            # Moves the weights to the end of the dict: they are the most recently used weights.
            self._loaded[weights.key] = self._loaded.pop(weights.key)
            yield weights.model(spec)
        finally:
            self._num_leases[source] -= 1

    def cancel_all(self) -> None:
        """Cancels all waiting and running requests of all models."""
        for weights in self.loaded:
            weights.engine.cancel_all()

    async def close(self) -> None:
        """Stops all engines and frees the memory of all models."""
        for task in self._loading.values():
            task.cancel()
        await asyncio.gather(*(weights.close() for weights in self.loaded))

    async def load(self, spec: ModelSpec) -> None:
        """Loads the model into memory, if it is not loaded yet.

        Raises WeightsUnusable if the model cannot be loaded, and CapacityExceeded if busy models
        take the memory that it needs.
        """
        await self._get(spec)

    async def _get(self, spec: ModelSpec) -> LoadedWeights:
        source = _Source.of(spec)
        weights = self._by_source.get(source)
        if weights is None:
            task = self._loading.get(source)
            if task is None:
                task = self._loading[source] = asyncio.create_task(self._load(spec, source))
                task.add_done_callback(lambda task: self._end_load(source, task))
            weights = await asyncio.shield(task)  # if one caller is cancelled, the load continues
        self._log_weights(spec, weights)
        return weights

    def _end_load(self, source: _Source, task: asyncio.Task[LoadedWeights]) -> None:
        """Removes the task of an ended load. After a failed load, a later request can then retry.

        Also reads the task's exception, because asyncio logs exceptions that no code has read.
        """
        del self._loading[source]
        if not task.cancelled():
            task.exception()

    async def _load(self, spec: ModelSpec, source: _Source) -> LoadedWeights:
        """Returns the weights of a model. Loads them if no other model has loaded them yet."""
        self._set_phase(f"loading {spec.name}")
        file = await in_daemon_thread(self._loader.weights, spec)
        key = _Key(file.path, spec.context_length)
        weights = self._loaded.get(key)
        if weights is None or spec.chat_template not in weights.templates:
            # Weights are unloaded only under the lock.
            async with self._load_lock:
                weights = self._loaded.get(key) or await self._load_weights(spec, file, key)
                await self._add_template(spec, weights)
        self._by_source[source] = weights
        return weights

    async def _load_weights(self, spec: ModelSpec, file: Weights, key: _Key) -> LoadedWeights:
        start = time.monotonic()
        opened = await in_daemon_thread(self._loader.open, spec, file)
        try:
            num_slots = await self._make_room(opened)
        except Exception:
            opened.close()
            raise
        with self._reserved(opened.memory(num_slots)):
            weights = await self._start_engine(opened, key, num_slots)
        self._unlist(weights)
        self._set_phase(f"warming up {spec.name}")
        limit_s = self._settings.stall_timeout
        weights.engine.watch(max(limit_s, _MIN_WARM_UP_LIMIT_S))
        await _check_computes(weights)
        weights.engine.watch(limit_s)
        self._unlisted.remove(weights)
        self._loaded[key] = weights
        log.info("loaded %s after %.1f s", file.name, time.monotonic() - start)
        return weights

    async def _add_template(self, spec: ModelSpec, weights: LoadedWeights) -> None:
        """Compiles the model's chat template, if no other model has the same one."""
        text = spec.chat_template
        if text not in weights.templates:
            template = await in_daemon_thread(self._loader.template, spec, weights.opened)
            weights.templates[text] = template

    def _log_weights(self, spec: ModelSpec, weights: LoadedWeights) -> None:
        """Logs the weights of a model of the catalogue, once for each model."""
        if spec.name in self._logged_names or spec.name not in self.catalog:
            return
        self._logged_names.add(spec.name)
        log_weights(spec.name, weights.opened.weights)

    async def _start_engine(self, opened: OpenModel, key: _Key, num_slots: int) -> LoadedWeights:
        from workers_ai_emulator.engine.engine import Engine
        from workers_ai_emulator.runtime.loader import TILING

        try:
            runner = await in_daemon_thread(self._loader.runner, opened, num_slots)
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
        templates = {opened.spec.chat_template: opened.template}
        return LoadedWeights(key, opened, engine, opened.memory(num_slots), templates)

    async def _make_room(self, opened: OpenModel) -> int:
        """Unloads idle weights until the new model fits into memory.

        Returns the number of slots for the new model. Raises WeightsUnusable if the model does not
        fit even without other models, and CapacityExceeded if busy models take the memory.
        """
        if not self._loader.num_slots(opened, self.memory_limit):
            raise self._loader.memory_error(opened, self.memory_limit)
        while not (num_slots := self._loader.num_slots(opened, self.free_memory)):
            if await self._unload_idle() or (self._others and await self._others.unload_idle()):
                continue
            if self._loaded or self._ending or (self._others and self._others.memory):
                raise CapacityExceeded
            raise self._loader.memory_error(opened, self.free_memory)
        return num_slots

    async def _unload_idle(self) -> bool:
        idle = next((weights for weights in self.loaded if self._is_idle(weights)), None)
        if idle is None:
            return False
        await self._unload(idle)
        return True

    async def _unload(self, weights: LoadedWeights) -> None:
        log.info("unloading %s to free memory", weights.opened.weights.name)
        del self._loaded[weights.key]
        for source in self._sources(weights):
            del self._by_source[source]
        self._unlist(weights)
        await weights.close()

    def _unlist(self, weights: LoadedWeights) -> None:
        """Remembers weights that are being checked or unloaded while their engine runs."""
        self._unlisted = [other for other in self._ending if other is not weights]
        self._unlisted.append(weights)

    @property
    def _ending(self) -> list[LoadedWeights]:
        """The weights that no request can use, but that still take memory."""
        return [weights for weights in self._unlisted if weights.engine.is_running]

    def _is_idle(self, weights: LoadedWeights) -> bool:
        num_leases = sum(self._num_leases[source] for source in self._sources(weights))
        return weights.engine.is_idle and not num_leases

    def _sources(self, weights: LoadedWeights) -> list[_Source]:
        return [source for source, loaded in self._by_source.items() if loaded is weights]

    @property
    def free_memory(self) -> int:
        """How many bytes of memory another model may take.

        The smaller of two numbers: the machine's free memory, and the memory limit minus the sizes
        of all models, including embedding models, that are loaded or being unloaded, or that are
        stuck, and of text models that are being loaded. The second number is needed because the
        operating system counts memory-mapped weights as free memory until they have been read.
        """
        return min(self.memory_limit - self.taken_memory, machine.available_memory())

    @property
    def taken_memory(self) -> int:
        """The bytes of memory that all models take, including embedding models."""
        in_memory = sum(weights.memory for weights in (*self.loaded, *self._ending))
        return self._reserved_memory + in_memory + (self._others.memory if self._others else 0)

    @contextmanager
    def _reserved(self, memory: int) -> Iterator[None]:
        """Counts memory as taken during the `with` block, in which a model is loaded.

        Otherwise an embedding model that is loaded at the same time could take the same memory.
        """
        self._reserved_memory += memory
        try:
            yield
        finally:
            self._reserved_memory -= memory

    def _set_phase(self, phase: str) -> None:
        if self.phase != "ready":
            self.phase = phase


def log_weights(name: str, weights: Weights) -> None:
    """Logs which weights serve the model `name`."""
    if weights.is_trusted:
        log.info("%s has no weights of its own: it runs on %s", name, weights.name)
    else:
        log.info("%s runs on %s", name, weights.name)


async def _check_computes(loaded: LoadedWeights) -> None:
    """Checks that loaded weights can generate two tokens.

    If they cannot, or if the engine gets stuck, closes them and raises WeightsUnusable.
    """
    prompt_tokens = loaded.engine.vocabulary.tokenize("Hello")
    params = SamplingParams(max_tokens=2, temperature=0.0)
    try:
        async for chunk in loaded.engine.submit(prompt_tokens, params):
            assert chunk.finish_reason is not FinishReason.CANCELLED
    except EngineError as error:
        await loaded.close()
        raise WeightsUnusable(
            f"{loaded.opened.weights.path} loads but does not compute: {error}"
        ) from error
