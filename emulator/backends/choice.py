"""Which backends there are, and which one a request gets."""

from __future__ import annotations

from collections.abc import Mapping

from emulator.backends.backend import Backend
from emulator.backends.local import LocalModels
from emulator.backends.script import Script, read_rules
from emulator.engines import Engines
from emulator.errors import IncompleteRequest
from emulator.settings import Settings

BACKEND_HEADER = "x-emulator-backend"


class Backends:
    """All backends by name. Raises SettingInvalid for files that cannot be used.

    `seed` is that of requests without one; `request_timeout_s`: a request may take so long.
    """

    def __init__(self, settings: Settings, engines: Engines) -> None:
        self.script = Script(read_rules(settings.script) if settings.script else [])
        self._engines = engines
        self._backends: Mapping[str, Backend] = {
            "llama": LocalModels(engines),
            "scripted": self.script,
        }
        self._default = settings.backend
        self.seed = settings.seed
        self.request_timeout_s = settings.request_timeout

    async def start(self) -> None:
        """Be ready for requests that choose none. Raises as Engines.start does."""
        if self._default == "llama":
            await self._engines.start()
        else:
            self._engines.phase = "ready"  # a model is loaded when a request chooses it

    def choose(self, name: str | None) -> Backend:
        """The one of this name, or the default. Raises IncompleteRequest for a name of none."""
        backend = self._backends.get(name or self._default)
        if backend is None:
            names = ", ".join(self._backends)
            raise IncompleteRequest(f"{BACKEND_HEADER} takes one of {names}, not {name}")
        return backend
