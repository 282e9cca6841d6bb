"""Loads embedding models on demand, and unloads idle ones if another model needs their memory."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from workers_ai_emulator import machine
from workers_ai_emulator.engine.errors import CapacityExceeded
from workers_ai_emulator.errors import ModelPartMissing, WeightsUnusable
from workers_ai_emulator.models.spec import ModelSpec
from workers_ai_emulator.runtime.daemon_thread import in_daemon_thread
from workers_ai_emulator.runtime.model_manager import ModelManager, log_weights
from workers_ai_emulator.settings import Settings

if TYPE_CHECKING:  # only the backend `llama` needs these modules, and their import is slow
    from workers_ai_emulator.engine.embedder import Embedder
    from workers_ai_emulator.models.store import Weights
    from workers_ai_emulator.runtime.embedder_loader import EmbedderLoader, OpenEmbedder

log = logging.getLogger(__name__)


@dataclass(slots=True)
class LoadedEmbedder:
    """An embedding model in memory.

    `memory`: the estimated bytes of memory that it takes. `num_leases`: the number of requests that
    use it.
    """

    opened: OpenEmbedder
    embedder: Embedder
    memory: int
    num_leases: int = field(default=0)

    @property
    def weights(self) -> Weights:
        return self.opened.weights

    def tokenize(
        self, texts: Sequence[str], limit: int, *, are_whole: bool = False
    ) -> list[list[int]]:
        """Returns the tokens of each text, with special tokens at their start and end.

        `limit`: the number of tokens after which a very long text may be cut before it is
        tokenised. `are_whole`: whether texts are not cut, so that all their tokens are counted. May
        block if the tokenizer runs in a subprocess.
        """
        return self.opened.tokenize(texts, limit, are_whole=are_whole)

    async def close(self) -> bool:
        """Ends the model's requests, and frees its weights unless a thread still uses them.

        Returns whether the weights were freed.
        """
        if has_ended := await self.embedder.close():
            self.opened.close()
        return has_ended


@dataclass(slots=True)
class _Load:
    """A model that is being loaded. `num_waiting`: the number of requests that wait for it."""

    task: asyncio.Task[LoadedEmbedder]
    num_waiting: int = 0


class Embedders:
    """Loads and unloads embedding models. Models with the same weights share an Embedder.

    All methods must be called on the event loop's thread. `models`: the models that generate text,
    which use the same memory and processor. `loader`: a replacement for `EmbedderLoader` in tests,
    otherwise None.
    """

    def __init__(
        self, settings: Settings, models: ModelManager, *, loader: EmbedderLoader | None = None
    ) -> None:
        self._settings = settings
        self._models = models
        self._given_loader = loader
        self._loaded: dict[Path, LoadedEmbedder] = {}  # the least recently used comes first
        self._paths: dict[str, Path] = {}  # the file of each model that was loaded, by its name
        self._loading: dict[str, _Load] = {}  # by the model's name
        # The models that are being unloaded, or were unloaded while a thread used their weights.
        self._ending: list[LoadedEmbedder] = []
        self._load_lock = asyncio.Lock()
        self._unload_lock = asyncio.Lock()
        models.share_memory(self)

    @property
    def memory(self) -> int:
        """The bytes of memory that the embedding models take, until they are freed."""
        return sum(loaded.memory for loaded in (*self._loaded.values(), *self._ending))

    @asynccontextmanager
    async def lease(self, spec: ModelSpec) -> AsyncIterator[LoadedEmbedder]:
        """Yields a loaded embedding model, which is not unloaded during the `with` block.

        Raises WeightsUnusable if the model cannot be loaded, and CapacityExceeded if busy models
        take the memory that it needs.
        """
        loaded = await self._leased(spec)
        try:
            yield loaded
        finally:
            loaded.num_leases -= 1

    async def unload_idle(self) -> bool:
        """Unloads the least recently used idle model. Returns whether memory was freed.

        Waits until no other model is being unloaded. Unloads nothing if memory was freed during
        this time, or if the last thread of a model that was unloaded earlier has ended.
        """
        taken = self.memory
        async with self._unload_lock:
            self._free_ended()
            return self.memory < taken or await self._unload_idle()

    def cancel_all(self) -> None:
        for loaded in self._loaded.values():
            loaded.embedder.cancel_all()

    async def close(self) -> None:
        for load in self._loading.values():
            load.task.cancel()
        await asyncio.gather(*(loaded.close() for loaded in self._loaded.values()))

    async def _unload_idle(self) -> bool:
        """Unloads idle models until one is freed. Returns whether one was."""
        while (loaded := self._pop_idle()) is not None:
            self._ending.append(loaded)
            log.info("unloading %s to free memory", loaded.weights.name)
            if await loaded.close():
                self._ending.remove(loaded)
                return True
        return False

    def _pop_idle(self) -> LoadedEmbedder | None:
        """Removes the least recently used idle model from `_loaded`, and returns it."""
        idle = (path for path, loaded in self._loaded.items() if not loaded.num_leases)
        path = next(idle, None)
        return None if path is None else self._loaded.pop(path)

    def _free_ended(self) -> None:
        """Frees the weights of unloaded models whose last thread has ended."""
        for loaded in [each for each in self._ending if not each.embedder.is_running]:
            loaded.opened.close()
            self._ending.remove(loaded)

    async def _leased(self, spec: ModelSpec) -> LoadedEmbedder:
        """Returns a loaded model after adding a lease. If it is cancelled, a begun load continues.

        All requests that wait for a model wait for the same load: clients that have left must not
        keep the server loading. A model that is loaded keeps its file until it is unloaded, even if
        `pull` installs another.
        """
        if (path := self._paths.get(spec.name)) in self._loaded:
            return self._used(path, num_leases=1)
        load = self._loading.get(spec.name) or self._begin_load(spec)
        load.num_waiting += 1
        try:
            return await asyncio.shield(load.task)
        except asyncio.CancelledError:
            if _has_succeeded(load.task):
                load.task.result().num_leases -= 1
            load.num_waiting -= 1
            raise

    def _begin_load(self, spec: ModelSpec) -> _Load:
        load = self._loading[spec.name] = _Load(asyncio.create_task(self._get(spec)))

        def end(task: asyncio.Task[LoadedEmbedder]) -> None:
            if self._loading.get(spec.name) is load:  # the load has failed
                del self._loading[spec.name]
            _has_succeeded(task)  # asyncio logs exceptions that no code has read

        load.task.add_done_callback(end)
        return load

    async def _get(self, spec: ModelSpec) -> LoadedEmbedder:
        """Returns a loaded model after adding a lease for each request that waits for it."""
        # Only one model is loaded at a time.
        async with self._load_lock:
            if not self._loading[spec.name].num_waiting:  # all clients have left
                del self._loading[spec.name]
                raise asyncio.CancelledError
            loader = self._loader
            weights = await in_daemon_thread(loader.weights, spec)
            if loaded := self._loaded.get(weights.path):
                loaded.opened.check_task(spec)  # another model may have loaded the file
            else:
                self._loaded[weights.path] = await self._load(loader, spec, weights)
            if self._paths.get(spec.name) != weights.path:
                log_weights(spec.name, weights)
            self._paths[spec.name] = weights.path
            # From here on, a request finds the model in `_loaded`.
            return self._used(weights.path, self._loading.pop(spec.name).num_waiting)

    def _used(self, path: Path, num_leases: int) -> LoadedEmbedder:
        """Returns the model with this file after adding leases, as the most recently used one."""
        loaded = self._loaded[path] = self._loaded.pop(path)
        loaded.num_leases += num_leases
        return loaded

    async def _load(
        self, loader: EmbedderLoader, spec: ModelSpec, weights: Weights
    ) -> LoadedEmbedder:
        opened = await in_daemon_thread(loader.open, spec, weights)
        try:
            num_runners = await self._make_room(opened)
        except Exception:
            opened.close()
            raise
        # No await may follow until the model is in `_loaded`: another model could take its memory.
        embedder = loader.embedder(opened, num_runners, lambda: self._models.is_idle)
        return LoadedEmbedder(opened, embedder, opened.memory(num_runners))

    async def _make_room(self, opened: OpenEmbedder) -> int:
        """Unloads idle models until the new model fits into memory with at least one runner.

        Returns the number of runners. Raises WeightsUnusable if the model does not fit even without
        other models, and CapacityExceeded if busy models take the memory.
        """
        if not opened.num_runners(self._models.memory_limit):
            raise _memory_error(opened, self._models.memory_limit)
        while not (num_runners := opened.num_runners(self._models.free_memory)):
            if await self.unload_idle() or await self._models.unload_idle():
                continue
            if self._models.taken_memory:
                raise CapacityExceeded
            raise _memory_error(opened, self._models.free_memory)
        return num_runners

    @cached_property
    def _loader(self) -> EmbedderLoader:
        try:
            from workers_ai_emulator.runtime.embedder_loader import EmbedderLoader
        except ModuleNotFoundError as error:
            raise ModelPartMissing.of(error) from error
        return self._given_loader or EmbedderLoader(self._settings)


def _memory_error(opened: OpenEmbedder, free: int) -> WeightsUnusable:
    """Returns the error for a model that needs more memory than `free` bytes."""
    return WeightsUnusable(
        f"{opened.weights.name} needs {machine.in_units(opened.memory(1))} of memory and "
        f"{machine.in_units(free)} are free: raise --memory, or free some memory"
    )


def _has_succeeded(task: asyncio.Task[LoadedEmbedder]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is None
