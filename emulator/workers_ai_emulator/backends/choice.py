"""Creates the backends, and chooses the backend of each request."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from workers_ai_emulator.backends.backend import Backend
from workers_ai_emulator.backends.local import LocalBackend
from workers_ai_emulator.backends.rules import Rule
from workers_ai_emulator.backends.scripted import ScriptedBackend
from workers_ai_emulator.runtime.embedders import Embedders
from workers_ai_emulator.runtime.model_manager import ModelManager
from workers_ai_emulator.settings import BackendName, Settings
from workers_ai_emulator.wire.errors import INCOMPLETE_REQUEST, WireError
from workers_ai_emulator.wire.validation import did_you_mean

if TYPE_CHECKING:  # the module `upstream` is slow to import, and only `--upstream-url` needs it
    from workers_ai_emulator.backends.upstream import UpstreamBackend

BACKEND_HEADER = "x-emulator-backend"


class Backends:
    """The backends of one server, by name. Chooses the backend of each request.

    `seed`: the sampling seed of requests that set no seed. `request_timeout_s`: the time limit of a
    generation in seconds; None: no limit. Raises SettingInvalid if the script or the upstream URL
    is invalid.
    """

    def __init__(self, settings: Settings, models: ModelManager) -> None:
        self.scripted = ScriptedBackend(_rules(settings.script), is_strict=settings.strict)
        self.seed = settings.seed
        self.request_timeout_s = settings.request_timeout
        self._models = models
        # If only calls without a recording are recorded, there may be none, so no model is loaded
        # and no upstream server is called before the first such call.
        is_recording = settings.backend == "record" and settings.record_mode == "all"
        self._default = settings.record_from if is_recording else settings.backend
        self._upstream = _upstream(settings)
        self._backends: dict[str, Backend] = {
            "llama": LocalBackend(models, Embedders(settings, models)),
            "scripted": self.scripted,
        }
        if self._upstream is not None:
            self._backends["upstream"] = self._upstream

    @property
    def status(self) -> str:
        """The phase of the server's start-up, such as `ready`, which is the last phase.

        If a loaded model has failed, the status is the model's error text. If `upstream` is the
        default backend and has failed, the status is the error text of `upstream`.
        """
        upstream = self._upstream if self._default == "upstream" else None
        return self._models.failure or (upstream and upstream.failure) or self._models.phase

    async def start(self) -> None:
        """Waits until the default backend can generate completions.

        If the default backend is `llama`, loads the models of the setting `--preload`. All other
        models are loaded on demand. Raises SettingInvalid if `--preload` is invalid, and
        WeightsUnusable if a model cannot be loaded.
        """
        if self._default == "llama":
            local = self._backends["llama"]
            assert isinstance(local, LocalBackend)
            await local.start()
        elif self._default == "upstream":
            assert self._upstream is not None
            await self._upstream.start(next(iter(self._models.catalog.values())))
        self._models.phase = "ready"

    def cancel_all(self) -> None:
        """Cancels all generations of all backends."""
        for backend in self._backends.values():
            backend.cancel_all()

    async def close(self) -> None:
        """Cancels all generations, and frees all models and connections."""
        await asyncio.gather(*(backend.close() for backend in self._backends.values()))

    def choose(self, name: str | None) -> Backend:
        """Returns the backend with this name, or the default backend if the name is None or empty.

        Raises WireError if no backend has this name, or if the server has no upstream URL and the
        name is `upstream`.
        """
        backend = self._backends.get(name or self._default)
        if backend is None:
            raise WireError(INCOMPLETE_REQUEST, _mistake(name or self._default))
        return backend


def _mistake(name: str) -> str:
    """Returns the error text for a value of the header that names no backend of this server."""
    if name == "upstream":
        return f"{BACKEND_HEADER}: upstream needs a server with --upstream-url"
    names = get_args(BackendName)  # `middleware/recordings/` implements `record` and `replay`
    hint = did_you_mean(name, names)
    return f"{BACKEND_HEADER} takes one of {', '.join(names)}, not {name}{hint}"


def _rules(script: Path | None) -> list[Rule]:
    """Returns the rules in the file `script`, or no rules if it is None.

    Raises SettingInvalid if the file cannot be read or contains mistakes.
    """
    if script is None:
        return []
    from workers_ai_emulator.backends.script_file import read_rules  # imports PyYAML, which is slow

    return read_rules(script)


def _upstream(settings: Settings) -> UpstreamBackend | None:
    """Returns the backend `upstream`, or None if the settings have no upstream URL.

    Raises SettingInvalid if the settings for this backend are invalid.
    """
    settings.check_upstream()
    if settings.upstream_url is None:
        return None
    from workers_ai_emulator.backends.upstream import UpstreamBackend

    return UpstreamBackend(
        settings.upstream_url,
        api_key=settings.upstream_api_key,
        model=settings.upstream_model,
        stall_timeout_s=settings.stall_timeout,
    )
