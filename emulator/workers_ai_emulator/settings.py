"""What a user can set, read once at the start and passed on."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import platformdirs

from workers_ai_emulator import machine

_CHECKOUT = Path(__file__).resolve().parents[2]


def default_models_dir() -> Path:
    """`models/` beside the package in a checkout, else the user's cache folder."""
    if (_CHECKOUT / "pyproject.toml").is_file() and (_CHECKOUT / "models").is_dir():
        return _CHECKOUT / "models"
    try:
        return platformdirs.user_cache_path("workers-ai-emulator") / "models"
    except RuntimeError:  # a container's user may have no home
        return Path("models")


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings; every flag of `serve` is one of them.

    `models_file` None: `models.toml` in the folder of models, if it is there; `preload`: names of
    the models that are loaded at the start, none: the first; `memory_limit`: bytes that all loaded
    models may take, None: what is free at the start; `parallel` None: as many sequences as there is
    memory for; `context_length` None: 4096, or what a model knows if that is less; `gpu_layers`
    None: as many as fit;
    `request_timeout` in seconds, None: a request may take as long as it needs;
    `daily_neurons`: what an account may spend, None: as much as it likes;
    `stall_timeout`: seconds after which a call of llama.cpp is taken to hang; `seed` is that of
    requests without one, None: a new one each time; `deterministic`: equal requests get equal bytes
    on the CPU, whatever runs beside them; `backend` is that of requests which choose none, and
    `script` the file of rules for `scripted`; `upstream_model` None: the only one it has;
    `cassettes`: folder of recordings; `replay_speed`: that of the recorded one, 0: all at once;
    `cloudflare_url` None: the service's own.
    """

    host: str = "127.0.0.1"
    port: int = 8790
    backend: str = "llama"
    script: Path | None = None
    upstream_url: str | None = None
    upstream_api_key: str | None = field(default=None, repr=False)
    upstream_model: str | None = None
    cassettes: Path = Path("cassettes")
    record_from: str = "llama"
    replay_speed: float = 0.0
    cloudflare_url: str | None = None
    models_dir: Path = field(default_factory=default_models_dir)
    models_file: Path | None = None
    preload: tuple[str, ...] = ()
    memory_limit: int | None = None
    parallel: int | None = None
    context_length: int | None = None
    threads: int = field(default_factory=machine.num_cores)
    gpu_layers: int | None = None
    queue_size: int = 64
    request_timeout: float | None = None
    stall_timeout: float = 120.0
    daily_neurons: int | None = None
    seed: int | None = None
    deterministic: bool = True
    api_tokens: frozenset[str] = frozenset()  # none: anybody may call
    allowed_origins: frozenset[str] = frozenset()  # of pages, besides local ones
    log_level: str = "info"

    @property
    def base_url_host(self) -> str:
        """The host as a client writes it."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return f"[{host}]" if ":" in host else host
