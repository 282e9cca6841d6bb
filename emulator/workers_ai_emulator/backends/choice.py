"""Which backends there are, and which one a request gets."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from workers_ai_emulator.backends.backend import Backend
from workers_ai_emulator.backends.local import LocalModels
from workers_ai_emulator.backends.scripted import Script, read_rules
from workers_ai_emulator.errors import IncompleteRequest
from workers_ai_emulator.runtime.model_manager import ModelManager
from workers_ai_emulator.settings import Settings

if TYPE_CHECKING:  # slow to import, and for few
    from workers_ai_emulator.backends.upstream import Upstream

BACKEND_HEADER = "x-emulator-backend"
_CASSETTES = ("record", "replay")  # a layer around the routes answers those


class Backends:
    """All backends by name. Raises SettingInvalid for files and URLs that cannot be used.

    `seed` is that of requests without one; `request_timeout_s`: a request may take so long.
    """

    def __init__(self, settings: Settings, engines: ModelManager) -> None:
        self.script = Script(read_rules(settings.script) if settings.script else [])
        self.seed = settings.seed
        self.request_timeout_s = settings.request_timeout
        self._model_manager = engines
        is_recording = settings.backend == "record"
        self._default = settings.record_from if is_recording else settings.backend
        self._upstream = _upstream(settings)
        self._backends: dict[str, Backend] = {
            "llama": LocalModels(engines),
            "scripted": self.script,
        }
        if self._upstream is not None:
            self._backends["upstream"] = self._upstream

    @property
    def status(self) -> str:
        """`ready`, or why requests that choose no backend cannot be answered."""
        upstream = self._upstream if self._default == "upstream" else None
        return (
            self._model_manager.failure
            or (upstream and upstream.failure)
            or self._model_manager.phase
        )

    async def start(self) -> None:
        """Be ready for requests that choose none. Raises as ModelManager.start does."""
        if self._default == "llama":
            await self._model_manager.start()
        elif self._default == "upstream":
            assert self._upstream is not None
            await self._upstream.start(next(iter(self._model_manager.catalog.values())))
        self._model_manager.phase = "ready"  # else a model is loaded when a request chooses it

    def cancel_all(self) -> None:
        """Cancel every request that has not ended."""
        for backend in self._backends.values():
            backend.cancel_all()

    async def close(self) -> None:
        """Stop all of them and give back what they hold."""
        await asyncio.gather(*(backend.close() for backend in self._backends.values()))

    def choose(self, name: str | None) -> Backend:
        """The one of this name, or the default. Raises IncompleteRequest for a name of none."""
        backend = self._backends.get(name or self._default)
        if backend is None:
            names = ", ".join([*self._backends, *_CASSETTES])
            raise IncompleteRequest(f"{BACKEND_HEADER} takes one of {names}, not {name}")
        return backend


def _upstream(settings: Settings) -> Upstream | None:
    """None without a URL."""
    settings.check_upstream()
    if settings.upstream_url is None:
        return None
    from workers_ai_emulator.backends.upstream import Upstream

    return Upstream(
        settings.upstream_url,
        api_key=settings.upstream_api_key,
        model=settings.upstream_model,
        stall_timeout_s=settings.stall_timeout,
    )
