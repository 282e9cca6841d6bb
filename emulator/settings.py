"""What a user can set, read once at the start and passed on."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import platformdirs

_CHECKOUT = Path(__file__).resolve().parent.parent


def default_models_dir() -> Path:
    """`models/` beside the package in a checkout, else the user's cache folder."""
    if (_CHECKOUT / "pyproject.toml").is_file() and (_CHECKOUT / "models").is_dir():
        return _CHECKOUT / "models"
    return platformdirs.user_cache_path("workers-ai-emulator") / "models"


def default_threads() -> int:
    """One for every core that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings; every flag of `serve` is one of them. `gpu_layers` None: all that fit."""

    host: str = "127.0.0.1"
    port: int = 8790
    models_dir: Path = field(default_factory=default_models_dir)
    parallel: int = 4
    context_length: int = 4096
    threads: int = field(default_factory=default_threads)
    gpu_layers: int | None = None
    queue_size: int = 64
    log_level: str = "info"

    @property
    def base_url_host(self) -> str:
        """The host as a client writes it."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return f"[{host}]" if ":" in host else host
