"""All settings of `workers-ai-emulator serve`, with their defaults, limits and help texts."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import platformdirs

from workers_ai_emulator import machine
from workers_ai_emulator.errors import SettingInvalid
from workers_ai_emulator.settings.declaration import Setting, declarations
from workers_ai_emulator.settings.parsers import (
    address,
    host_name,
    not_blank,
    number,
    origin,
    size,
    token,
    tokens_in_file,
)

BackendName = Literal["llama", "scripted", "upstream", "record", "replay"]

_CHECKOUT = Path(__file__).resolve().parents[3]
# The largest value of `--parallel` and of `--gpu-layers`: llama.cpp allows no more parallel
# sequences, and no model has more layers.
_MAX_NUMBER = 256


def default_models_dir() -> Path:
    """Returns the default folder of the weights.

    In a checkout of the repository, this is the checkout's folder `models/`. Otherwise, it is a
    folder in the user's cache folder. If the user has no home folder, and therefore no cache
    folder, it is `models/` in the working directory.
    """
    if (_CHECKOUT / "emulator" / "compile").is_dir() and (_CHECKOUT / "models").is_dir():
        return _CHECKOUT / "models"
    try:
        return platformdirs.user_cache_path("workers-ai-emulator") / "models"
    except RuntimeError:  # the user has no home folder, for example in a container
        return Path("models")


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of one server. `serve --help` lists the flags in the order of the fields."""

    host: Annotated[
        str,
        Setting(
            "Address to listen on; 0.0.0.0 accepts connections from other machines.",
            parse=address,
        ),
    ] = "127.0.0.1"
    port: Annotated[
        int,
        Setting(
            "Port to listen on; 0 picks a free port. The base URL on stdout contains the port.",
            minimum=0,
            maximum=65535,
        ),
    ] = 8790
    backend: Annotated[
        BackendName,
        Setting("Backend for requests without an `x-emulator-backend` header."),
    ] = "llama"
    script: Annotated[
        Path | None,
        Setting(
            "YAML or JSON file of rules for the backend `scripted`.",
            path="existing file",
            page="scripts.md",
        ),
    ] = None
    strict: Annotated[
        bool,
        Setting(
            "Requests to which no rule of the script applies get the error 3905 instead of a "
            "completion that quotes the request.",
            page="scripts.md",
        ),
    ] = False
    upstream_url: Annotated[
        str | None,
        Setting(
            "Base URL of another server's OpenAI API, for the backend `upstream`; for example "
            "http://127.0.0.1:8080/v1.",
            page="upstream.md",
            parse=not_blank,
        ),
    ] = None
    upstream_api_key: Annotated[
        str | None,
        Setting(
            "API key for the upstream server. Prefer the environment variable: other users of the "
            "machine can read a command's flags.",
            parse=not_blank,
            refuses_blank=True,
            is_secret=True,
        ),
    ] = field(default=None, repr=False)
    upstream_model: Annotated[
        str | None,
        Setting(
            "Model name to send to the upstream server.",
            default_text="the requested model if that server has it, otherwise its only model",
            parse=not_blank,
        ),
    ] = None
    cassettes: Annotated[
        Path,
        Setting(
            "Folder that `record` writes recordings to and `replay` reads them from.",
            path="folder",
            page="recordings.md",
        ),
    ] = Path("cassettes")
    record_from: Annotated[
        Literal["llama", "scripted", "upstream", "cloudflare"],
        Setting("Backend whose responses `record` stores; `cloudflare` is the real service."),
    ] = "llama"
    record_mode: Annotated[
        Literal["all", "new_episodes", "once", "none"],
        Setting(
            "Which calls `record` records, as in VCR.py: `all` records each call; `new_episodes` "
            "replays calls that have a recording and records the others; `once` records only into "
            "a folder that has no recordings yet; `none` only replays.",
            page="recordings.md",
        ),
    ] = "all"
    record_timing: Annotated[
        bool,
        Setting(
            "Recordings contain the time of each event, for `--replay-speed`. These times change "
            "whenever a call is recorded."
        ),
    ] = False
    replay_speed: Annotated[
        float,
        Setting(
            "Speed of replayed responses: 1 as recorded, 2 twice as fast, 0 without delays. "
            "Recordings without times are sent without delays.",
            minimum=0,
        ),
    ] = 0.0
    cloudflare_url: Annotated[
        str | None,
        Setting(
            "Base URL of the server that receives the requests of `--record-from cloudflare`.",
            default_text="Cloudflare's hosts",
            page="upstream.md",
            parse=not_blank,
            refuses_blank=True,
        ),
    ] = None
    models_dir: Annotated[
        Path,
        Setting(
            "Folder of the weights.",
            path="folder",
            default_text="`models/` in a checkout, otherwise in your cache folder",
        ),
    ] = field(default_factory=default_models_dir)
    models_file: Annotated[
        Path | None,
        Setting(
            "TOML file that declares further models.",
            path="existing file",
            default_text="`models.toml` in the folder of the weights, if it exists",
            page="models.md",
        ),
    ] = None
    any_model: Annotated[
        bool,
        Setting(
            "The stand-in model serves every unknown name of the form @cf/author/model, "
            "@hf/author/model or author/model; otherwise, requests for unknown names get 400 "
            "or 404.",
            page="models.md",
        ),
    ] = False
    retired: Annotated[
        bool,
        Setting(
            "Requests for models that the service has retired get 410, as on the service; "
            "otherwise, the server serves these models.",
            page="models.md",
        ),
    ] = False
    preload: Annotated[
        tuple[str, ...],
        Setting(
            "Model to load before the server is ready; other models are loaded by their first "
            "request.",
            default_text="`@cf/meta/llama-2-7b-chat-int8`; with `--retired`, "
            "`@cf/meta/llama-3.1-8b-instruct-fast`",
        ),
    ] = ()
    memory_limit: Annotated[
        int | None,
        Setting(
            "Memory for loaded models, such as 12GiB; `auto`: all that is free at the start.",
            flag="memory",
            has_auto=True,
            parse=size,
        ),
    ] = None
    parallel: Annotated[
        int | None,
        Setting(
            "Sequences that run at the same time; `auto`: up to 8, as memory allows.",
            has_auto=True,
            parse=number,
            minimum=1,
            maximum=_MAX_NUMBER,
        ),
    ] = None
    context_length: Annotated[
        int | None,
        Setting(
            "Tokens of a sequence: prompt and completion.",
            default_text="4096, or the model's maximum if that is lower",
            minimum=256,
        ),
    ] = None
    threads: Annotated[
        int, Setting("Threads that compute.", default_text="all cores", minimum=1, maximum=1024)
    ] = field(default_factory=machine.num_cores)
    gpu_layers: Annotated[
        int | None,
        Setting(
            "Layers on the GPU, if llama.cpp was built with GPU support; `auto`: as many as fit.",
            has_auto=True,
            parse=number,
            minimum=0,
            maximum=_MAX_NUMBER,
        ),
    ] = None
    queue_size: Annotated[
        int,
        Setting(
            "Requests that may wait for a slot, or for a thread that computes embeddings; further "
            "requests get 429.",
            minimum=0,
        ),
    ] = 64
    request_timeout: Annotated[
        float | None,
        Setting(
            "Seconds until a request times out with 408, or its stream breaks off.",
            default_text="unlimited",
            minimum=0.001,
        ),
    ] = None
    stall_timeout: Annotated[
        float,
        Setting(
            "Seconds without progress until `readyz` returns 503 and requests fail.", minimum=0.1
        ),
    ] = 120.0
    daily_neurons: Annotated[
        int | None,
        Setting(
            "Neurons that an account may spend per day; further requests get 429.",
            default_text="unlimited",
            page="faults.md",
            minimum=0,
        ),
    ] = None
    seed: Annotated[
        int | None,
        Setting(
            "Seed for requests that contain none.",
            default_text="a new seed for each request, as on the service",
            minimum=0,
        ),
    ] = None
    deterministic: Annotated[
        bool,
        Setting(
            "Equal requests with a seed or temperature 0 get equal bytes on the CPU; "
            "`--no-deterministic` is faster for a single client."
        ),
    ] = True
    drafts: Annotated[
        bool,
        Setting(
            "Guess the next tokens of a request that runs alone, and compute several at a time; "
            "changes no completion, except with `--no-deterministic`.",
            page="performance.md",
        ),
    ] = True
    inline_tokens: Annotated[
        frozenset[str],
        Setting(
            "API token that the server accepts.",
            flag="api-token",
            default_text="requests need no token",
            parse=token,
            refuses_blank=True,
            is_secret=True,
        ),
    ] = frozenset()
    file_tokens: Annotated[
        frozenset[str],
        Setting(
            "File of further API tokens that the server accepts, one per line.",
            flag="api-token-file",
            path="existing file",
            parse=tokens_in_file,
            refuses_blank=True,
            is_secret=True,
        ),
    ] = frozenset()
    allowed_origins: Annotated[
        frozenset[str],
        Setting(
            "Origin whose pages may send requests, or `*`; local origins always may. Also allows "
            "the origin's host name, as `--allow-host` does.",
            flag="allow-origin",
            default_text="local origins only",
            page="security.md",
            parse=origin,
        ),
    ] = frozenset()
    allowed_hosts: Annotated[
        frozenset[str],
        Setting(
            "Host name under which clients may call the server, or `*`; localhost and IP addresses "
            "always work.",
            flag="allow-host",
            default_text="localhost and IP addresses only",
            page="security.md",
            parse=host_name,
        ),
    ] = frozenset()
    trust_local_bindings: Annotated[
        bool,
        Setting(
            "AI bindings on this machine need no API token; use `--no-trust-local-bindings` if a "
            "proxy or tunnel on this machine forwards requests to the server.",
            page="security.md",
        ),
    ] = True
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Setting("Lowest level of the log lines on stderr; `debug` includes llama.cpp's lines."),
    ] = "info"

    @property
    def api_tokens(self) -> frozenset[str]:
        """All API tokens that the server accepts. If the set is empty, requests need no token."""
        return self.inline_tokens | self.file_tokens

    @property
    def is_open_to_others(self) -> bool:
        """Whether other machines can send requests without a token."""
        return not self.api_tokens and not _is_loopback(self.host)

    @property
    def unused_script_flags(self) -> list[str]:
        """Those of `--script` and `--strict` that are set, but have no effect with the backend.

        They may have an effect on requests with an `x-emulator-backend` header. With the backends
        `record` and `replay`, calls can be unmatched. Clients such as the pytest plugin read from
        `--strict` whether a test with such calls fails, so the flag has an effect.
        """
        source = self.record_from if self.backend == "record" else self.backend
        unused = {
            "--script": self.script is not None and source != "scripted",
            "--strict": self.strict and self.backend in ("llama", "upstream"),
        }
        return [flag for flag, is_unused in unused.items() if is_unused]

    @property
    def base_url_host(self) -> str:
        """The host in the server's base URL.

        An IPv6 address is in brackets. If the server listens on all addresses, the host is a
        loopback address.
        """
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return f"[{host}]" if ":" in host else host

    def to_json(self) -> dict[str, Any]:
        """Returns the value of each flag, without the secret settings."""
        return {
            declaration.flag: declaration.shown(getattr(self, name))
            for name, declaration in declarations(self).items()
            if not declaration.setting.is_secret
        }

    def check_upstream(self) -> None:
        """Checks that the URL of the upstream server is set if the backend `upstream` is used.

        Raises SettingInvalid if `--backend` or `--record-from` is `upstream`, and `--upstream-url`
        is missing.
        """
        for flag, backend in (("backend", self.backend), ("record-from", self.record_from)):
            if backend == "upstream" and self.upstream_url is None:
                raise SettingInvalid(f"--{flag} upstream needs --upstream-url")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
