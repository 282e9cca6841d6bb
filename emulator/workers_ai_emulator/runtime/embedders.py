"""Loads embedding models on demand, and unloads idle ones if another model needs their memory."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from workers_ai_emulator.engine.errors import CapacityExceeded
from workers_ai_emulator.errors import ModelPartMissing
from workers_ai_emulator.models.spec import ModelSpec
from workers_ai_emulator.runtime.daemon_thread import in_daemon_thread
from workers_ai_emulator.settings import Settings

if TYPE_CHECKING:  # only the backend `llama` needs these modules, and their import is slow
    from workers_ai_emulator.engine.embedder import Embedder
    from workers_ai_emulator.models.store import Weights
    from workers_ai_emulator.runtime.embedder_loader import EmbedderLoader, OpenEmbedder

log = logging.getLogger(__name__)


@dataclass(slots=True)
class LoadedEmbedder:
    """An embedding model in memory. `num_leases`: the number of requests that use it."""

    opened: OpenEmbedder
    embedder: Embedder
    num_leases: int = field(default=0)

    @property
    def weights(self) -> Weights:
        return self.opened.weights

    def tokenize(self, texts: Sequence[str], limit: int) -> list[list[int]]:
        """Returns the tokens of each text, with special tokens at their start and end.

        `limit`: the number of tokens after which a very long text may be cut before it is
        tokenised. May block if the tokenizer runs in a subprocess.
        """
        return self.opened.tokenize(texts, limit)

    async def close(self) -> None:
        await self.embedder.close()
        self.opened.close()


class Embedders:
    """Loads and unloads embedding models. Models with the same weights share an Embedder.

    All methods must be called on the event loop's thread. `free_memory`: returns how many bytes of
    memory other models leave. `is_machine_free`: returns whether no generation runs; any thread may
    call it.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        free_memory: Callable[[], int],
        is_machine_free: Callable[[], bool],
    ) -> None:
        self._settings = settings
        self._free_memory = free_memory
        self._is_machine_free = is_machine_free
        self._loaded: dict[Path, LoadedEmbedder] = {}  # the least recently used comes first
        self._load_lock = asyncio.Lock()

    @property
    def memory(self) -> int:
        """The bytes of memory that the loaded embedding models take."""
        return sum(loaded.opened.memory for loaded in self._loaded.values())

    @asynccontextmanager
    async def lease(self, spec: ModelSpec) -> AsyncIterator[LoadedEmbedder]:
        """Yields a loaded embedding model, which is not unloaded during the `with` block.

        Raises WeightsUnusable if the model cannot be loaded, and CapacityExceeded if busy models
        take the memory that it needs.
        """
        loaded = await self._get(spec)
        loaded.num_leases += 1
        try:
            yield loaded
        finally:
            loaded.num_leases -= 1

    def cancel_all(self) -> None:
        for loaded in self._loaded.values():
            loaded.embedder.cancel_all()

    async def close(self) -> None:
        await asyncio.gather(*(loaded.close() for loaded in self._loaded.values()))

    async def _get(self, spec: ModelSpec) -> LoadedEmbedder:
        # Only one model is loaded at a time. The lock also protects against unloading meanwhile.
        async with self._load_lock:
            loader = _loader(self._settings)
            weights = await in_daemon_thread(loader.weights, spec)
            loaded = self._loaded.pop(weights.path, None)
            if loaded is None:
                loaded = await self._load(loader, spec, weights)
            self._loaded[weights.path] = loaded
            return loaded

    async def _load(
        self, loader: EmbedderLoader, spec: ModelSpec, weights: Weights
    ) -> LoadedEmbedder:
        opened = await in_daemon_thread(loader.open, spec, weights)
        try:
            while opened.memory > self._free_memory():
                await self._unload_idle()
        except CapacityExceeded:
            opened.close()
            raise
        log.info("%s runs on %s", spec.name, weights.name)
        embedder = loader.embedder(opened, self._is_machine_free)
        return LoadedEmbedder(opened, embedder)

    async def _unload_idle(self) -> None:
        """Unloads the least recently used idle model. Raises CapacityExceeded if none is idle."""
        for path, loaded in self._loaded.items():
            if not loaded.num_leases:
                log.info("unloading %s to free memory", loaded.weights.name)
                del self._loaded[path]
                await loaded.close()
                return
        raise CapacityExceeded


def _loader(settings: Settings) -> EmbedderLoader:
    try:
        from workers_ai_emulator.runtime.embedder_loader import EmbedderLoader
    except ModuleNotFoundError as error:
        raise ModelPartMissing.of(error) from error
    return EmbedderLoader(settings)
