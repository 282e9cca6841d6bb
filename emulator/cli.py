"""The command line. The only file that prints."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import typer
from typer.exceptions import TyperException

from emulator import __version__
from emulator.errors import SettingInvalid, StartError
from emulator.settings import Settings

_DEFAULTS = Settings()
_MAX_NUMBER = 256  # of sequences llama.cpp takes, and more layers than models have

app = typer.Typer(
    help="A local server that answers Cloudflare Workers AI's text-generation calls.",
    rich_markup_mode=None,  # its tables cut the names of the variables
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _flag(name: str, help: str, **limits: Any) -> Any:
    """A flag of `serve` with its environment twin."""
    return typer.Option(f"--{name}", envvar=_twin(name), help=help, **limits)


def _twin(name: str) -> str:
    return f"WORKERS_AI_EMULATOR_{name.upper().replace('-', '_')}"


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        print(__version__)
    elif context.invoked_subcommand is None:
        print(context.get_help())


@app.command()
def serve(
    host: Annotated[
        str, _flag("host", "Address to listen on; 0.0.0.0 lets other machines in.")
    ] = _DEFAULTS.host,
    port: Annotated[
        int, _flag("port", "Port to listen on; 0 picks a free one.", min=0, max=65535)
    ] = _DEFAULTS.port,
    models_dir: Annotated[
        Path, _flag("models-dir", "Folder of the weights.", file_okay=False)
    ] = _DEFAULTS.models_dir,
    parallel: Annotated[
        str, _flag("parallel", "Sequences that run at once, or `auto`: by free memory.")
    ] = "auto",
    context_length: Annotated[
        int, _flag("context-length", "Tokens of a sequence, prompt and completion.", min=256)
    ] = _DEFAULTS.context_length,
    threads: Annotated[
        int, _flag("threads", "Threads that compute.", min=1, max=1024)
    ] = _DEFAULTS.threads,
    gpu_layers: Annotated[
        str, _flag("gpu-layers", "Layers to put on the GPU, or `auto`: all.")
    ] = "auto",
    queue_size: Annotated[
        int, _flag("queue-size", "Requests that may wait; more get 429.", min=0)
    ] = _DEFAULTS.queue_size,
    request_timeout: Annotated[
        float | None,
        _flag("request-timeout", "Seconds a request may take before 408; unlimited.", min=0.001),
    ] = _DEFAULTS.request_timeout,
    stall_timeout: Annotated[
        float,
        _flag("stall-timeout", "Seconds without progress before readyz says so.", min=0.1),
    ] = _DEFAULTS.stall_timeout,
    seed: Annotated[
        int | None,
        _flag("seed", "Seed of requests that have none; without it, answers vary.", min=0),
    ] = _DEFAULTS.seed,
    deterministic: Annotated[
        bool,
        typer.Option(
            "--deterministic/--no-deterministic",
            envvar=_twin("deterministic"),
            help="Equal bytes for equal requests on the CPU, or faster answers to one at a time.",
        ),
    ] = _DEFAULTS.deterministic,
    api_token: Annotated[
        list[str] | None,
        _flag("api-token", "A token to ask for; may be repeated. Without any, all may call."),
    ] = None,
    api_token_file: Annotated[
        Path | None,
        _flag("api-token-file", "A file of such tokens, one a line.", exists=True, dir_okay=False),
    ] = None,
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], _flag("log-level", "What goes to stderr.")
    ] = "info",
) -> None:
    """Serve the API until Ctrl-C or SIGTERM.

    The first line on stdout is the base URL, printed when a model has generated a token.
    """
    settings = Settings(
        host=host,
        port=port,
        models_dir=models_dir,
        parallel=_number_or_auto("parallel", parallel, minimum=1),
        context_length=context_length,
        threads=threads,
        gpu_layers=_number_or_auto("gpu-layers", gpu_layers, minimum=0),
        queue_size=queue_size,
        request_timeout=request_timeout,
        stall_timeout=stall_timeout,
        seed=seed,
        deterministic=deterministic,
        api_tokens=_tokens(api_token or [], api_token_file),
        log_level=log_level,
    )
    logging.basicConfig(
        level=log_level.upper(), stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s"
    )
    from emulator.server import Server, listen  # slow to import, and `--help` does not need it

    Server(settings, listen(settings), on_ready=_print_line).serve_until_stopped()


def main() -> None:
    """Run the command; a user's mistake is one line on stderr."""
    try:
        app(standalone_mode=False)
    except StartError as error:
        _fail(str(error), 1)
    except TyperException as error:
        _fail(error.format_message(), 2)


def _number_or_auto(name: str, value: str, *, minimum: int) -> int | None:
    """None for `auto`. Raises SettingInvalid."""
    if value == "auto":
        return None
    if not value.isdecimal() or not minimum <= int(value) <= _MAX_NUMBER:
        raise SettingInvalid(
            f"--{name} (or {_twin(name)}) takes `auto` or a number from {minimum} to "
            f"{_MAX_NUMBER}, not {value!r}"
        )
    return int(value)


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


def _print_line(line: str) -> None:
    print(line, flush=True)


def _fail(message: str, status: int) -> NoReturn:
    print(f"workers-ai-emulator: {message}", file=sys.stderr)
    raise SystemExit(status)
