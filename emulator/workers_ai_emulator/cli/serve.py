"""`serve`: settings from flags and environment, then the server."""

from __future__ import annotations

import logging
import re
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from workers_ai_emulator.cli.options import (
    ModelsDir,
    ModelsFile,
    env_var,
    flag,
    number_or_auto,
    size_or_auto,
)
from workers_ai_emulator.cli.output import print_line
from workers_ai_emulator.errors import SettingInvalid
from workers_ai_emulator.settings import Settings

_DEFAULTS = Settings()


def serve(
    host: Annotated[
        str, flag("host", "Address to listen on; 0.0.0.0 lets other machines in.")
    ] = _DEFAULTS.host,
    port: Annotated[
        int, flag("port", "Port to listen on; 0 picks a free one.", min=0, max=65535)
    ] = _DEFAULTS.port,
    backend: Annotated[
        Literal["llama", "scripted", "upstream", "record", "replay"],
        flag("backend", "What answers requests that choose nothing else."),
    ] = "llama",
    script: Annotated[
        Path | None,
        flag("script", "Rules for the backend `scripted`.", exists=True, dir_okay=False),
    ] = None,
    upstream_url: Annotated[
        str | None,
        flag("upstream-url", "OpenAI's API of another server, such as http://127.0.0.1:8080/v1."),
    ] = None,
    upstream_api_key: Annotated[
        str | None, flag("upstream-api-key", "The key that this server asks for, if it does.")
    ] = None,
    upstream_model: Annotated[
        str | None, flag("upstream-model", "The model to ask it for; the only one that it has.")
    ] = None,
    cassettes: Annotated[
        Path, flag("cassettes", "Folder for `record` and `replay`.", file_okay=False)
    ] = _DEFAULTS.cassettes,
    record_from: Annotated[
        Literal["llama", "scripted", "upstream", "cloudflare"],
        flag("record-from", "What answers calls that are recorded."),
    ] = "llama",
    replay_speed: Annotated[
        float,
        flag(
            "replay-speed",
            "Of recorded answers: 1 as they came, 2 twice as fast; 0 at once.",
            min=0,
        ),
    ] = _DEFAULTS.replay_speed,
    cloudflare_url: Annotated[
        str | None,
        flag("cloudflare-url", "Where `--record-from cloudflare` sends calls; Cloudflare's hosts."),
    ] = _DEFAULTS.cloudflare_url,
    models_dir: ModelsDir = _DEFAULTS.models_dir,
    models_file: ModelsFile = None,
    preload: Annotated[
        list[str] | None,
        flag("preload", "A model to load before the server is ready; may be repeated. The first."),
    ] = None,
    memory: Annotated[
        str, flag("memory", "What loaded models may take, such as 12GiB, or `auto`: what is free.")
    ] = "auto",
    parallel: Annotated[
        str, flag("parallel", "Sequences that run at once, or `auto`: by free memory.")
    ] = "auto",
    context_length: Annotated[
        int | None,
        flag("context-length", "Tokens of a sequence, prompt and completion; 4096.", min=256),
    ] = _DEFAULTS.context_length,
    threads: Annotated[
        int, flag("threads", "Threads that compute.", min=1, max=1024)
    ] = _DEFAULTS.threads,
    gpu_layers: Annotated[
        str, flag("gpu-layers", "Layers to put on the GPU, or `auto`: those that fit.")
    ] = "auto",
    queue_size: Annotated[
        int, flag("queue-size", "Requests that may wait; more get 429.", min=0)
    ] = _DEFAULTS.queue_size,
    request_timeout: Annotated[
        float | None,
        flag("request-timeout", "Seconds a request may take before 408; unlimited.", min=0.001),
    ] = _DEFAULTS.request_timeout,
    stall_timeout: Annotated[
        float,
        flag("stall-timeout", "Seconds without progress before readyz says so.", min=0.1),
    ] = _DEFAULTS.stall_timeout,
    daily_neurons: Annotated[
        int | None,
        flag("daily-neurons", "Neurons an account may spend a day before 429; any.", min=0),
    ] = _DEFAULTS.daily_neurons,
    seed: Annotated[
        int | None,
        flag("seed", "Seed of requests that have none; without it, answers vary.", min=0),
    ] = _DEFAULTS.seed,
    deterministic: Annotated[
        bool,
        typer.Option(
            "--deterministic/--no-deterministic",
            envvar=env_var("deterministic"),
            help="Equal bytes for equal requests on the CPU, or faster answers to one at a time.",
        ),
    ] = _DEFAULTS.deterministic,
    api_token: Annotated[
        list[str] | None,
        flag("api-token", "A token to ask for; may be repeated. Without any, all may call."),
    ] = None,
    api_token_file: Annotated[
        Path | None,
        flag("api-token-file", "A file of such tokens, one a line.", exists=True, dir_okay=False),
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        flag("allow-origin", "Origin whose pages may call, or `*`; may be repeated. Local ones."),
    ] = None,
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], flag("log-level", "What goes to stderr.")
    ] = "info",
) -> None:
    """Serve the API until Ctrl-C or SIGTERM.

    The first line on stdout is the base URL, printed when a model has generated a token.
    """
    settings = Settings(
        host=host,
        port=port,
        backend=backend,
        script=script,
        upstream_url=upstream_url,
        upstream_api_key=upstream_api_key,
        upstream_model=upstream_model,
        cassettes=cassettes,
        record_from=record_from,
        replay_speed=replay_speed,
        cloudflare_url=cloudflare_url,
        models_dir=models_dir,
        models_file=models_file,
        preload=tuple(preload or ()),
        memory_limit=size_or_auto("memory", memory),
        parallel=number_or_auto("parallel", parallel, minimum=1),
        context_length=context_length,
        threads=threads,
        gpu_layers=number_or_auto("gpu-layers", gpu_layers, minimum=0),
        queue_size=queue_size,
        request_timeout=request_timeout,
        stall_timeout=stall_timeout,
        daily_neurons=daily_neurons,
        seed=seed,
        deterministic=deterministic,
        api_tokens=_tokens(api_token or [], api_token_file),
        allowed_origins=_origins(allow_origin or []),
        log_level=log_level,
    )
    logging.basicConfig(
        level=log_level.upper(), stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s"
    )
    logging.getLogger("httpx2").setLevel(logging.WARNING)  # it has a line for every request
    from workers_ai_emulator.models.models_file import (
        read_catalog,  # slow to import, and `--help` needs neither
    )
    from workers_ai_emulator.server import Server, listen

    catalog = read_catalog(models_dir, models_file)
    Server(settings, catalog, listen(settings), on_ready=print_line).serve_until_stopped()


def _tokens(tokens: list[str], file: Path | None) -> frozenset[str]:
    """All tokens given. Raises SettingInvalid for a file that holds none."""
    if file is None:
        return frozenset(tokens)
    try:
        lines = {line.strip() for line in file.read_text("utf-8").splitlines()} - {""}
    except (OSError, UnicodeDecodeError) as error:
        raise SettingInvalid(f"--api-token-file: cannot read {file}: {error}") from error
    if not lines:
        raise SettingInvalid(f"--api-token-file: {file} holds no token; write one a line")
    return frozenset(tokens) | lines


def _origins(origins: list[str]) -> frozenset[str]:
    """All origins given, as browsers write them. Raises SettingInvalid."""
    for origin in origins:
        if not re.fullmatch(r"\*|null|[a-z][a-z0-9+.-]*://[^/?#\s]+/?", origin, re.IGNORECASE):
            raise SettingInvalid(
                f"--allow-origin (or {env_var('allow-origin')}) takes an origin such as "
                f"https://app.example:3000, `null` or `*`, not {origin!r}"
            )
    return frozenset(origin.lower().removesuffix("/") for origin in origins)
