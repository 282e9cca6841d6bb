"""`wait`: until an emulator is ready."""

from __future__ import annotations

import time
from typing import Annotated
from urllib.parse import urlsplit

import typer
from typer.exceptions import TyperException

from workers_ai_emulator.cli.options import flag
from workers_ai_emulator.cli.output import tell
from workers_ai_emulator.errors import CommandError
from workers_ai_emulator.settings import Settings

_DEFAULTS = Settings()


def wait(
    host: Annotated[str, flag("host", "Where the emulator listens.")] = _DEFAULTS.host,
    port: Annotated[int, flag("port", "Its port.", min=1, max=65535)] = _DEFAULTS.port,
    url: Annotated[
        str | None, typer.Option("--url", help="Any URL of it, instead of host and port.")
    ] = None,
    timeout: Annotated[float, typer.Option("--timeout", help="Seconds.", min=0)] = 60.0,
) -> None:
    """Wait until the emulator is ready: a model has generated a token.

    Ends with 0 then, and with 1 if the time is over or the emulator ends. What it waits for goes to
    stderr.
    """
    from workers_ai_emulator.launcher.readiness import phases  # slow to import

    host, port = _address(url) if url else (Settings(host=host).base_url_host.strip("[]"), port)
    root = f"http://{Settings(host=host).base_url_host}:{port}"
    deadline = time.monotonic() + timeout
    said = None
    for phase in phases(host, port):
        if said and phase is None:
            raise CommandError(f"the emulator at {root} has ended; it said why in its own output")
        if phase and phase != said:
            tell(f"waiting for the emulator at {root}: {phase}")
            said = phase
        if time.monotonic() >= deadline:
            raise CommandError(_too_late(root, phase, timeout))


def _address(url: str) -> tuple[str, int]:
    """Raises TyperException for what is no URL of an emulator."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or 80
    except ValueError:
        host = None
    if not host or parts.scheme != "http":
        raise TyperException(f"--url takes a URL such as http://127.0.0.1:8790, not {url!r}")
    return host, port


def _too_late(root: str, phase: str | None, timeout: float) -> str:
    if phase:
        return f"the emulator at {root} is not ready after {timeout:g} s: {phase}"
    return (
        f"no emulator answers at {root} after {timeout:g} s: start one with `workers-ai-emulator "
        "serve`, or name where it is with --url"
    )
