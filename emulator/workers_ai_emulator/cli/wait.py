"""The command `wait`: waits until an emulator is ready."""

from __future__ import annotations

import math
import re
import time
from typing import Annotated
from urllib.parse import urlsplit

import typer
from typer.exceptions import TyperException

from workers_ai_emulator.cli.options import (
    DEFAULTS,
    option,
    reachable_host,
    unknown_setting_variables,
)
from workers_ai_emulator.cli.output import print_to_stderr
from workers_ai_emulator.errors import CommandError
from workers_ai_emulator.settings import Settings
from workers_ai_emulator.urls import but_not


def wait(
    host: Annotated[str, option("host", help="Host of the emulator.")] = DEFAULTS.host,
    port: Annotated[int, option("port", help="Port of the emulator.", minimum=1)] = DEFAULTS.port,
    url: Annotated[
        str | None,
        typer.Option("--url", help="Any URL of the emulator, instead of host and port."),
    ] = None,
    timeout: Annotated[
        float, typer.Option("--timeout", help="Seconds to wait at most.", min=0)
    ] = 60.0,
    pid: Annotated[
        int | None,
        typer.Option(
            "--pid",
            help="Process that you expect to be the emulator, or to have started it: `wait` fails "
            "if the process ends, or if another emulator listens at the port.",
            min=1,
        ),
    ] = None,
) -> None:
    """Wait until the emulator is ready.

    With the backends `llama` and `upstream`, it is ready when a model has generated a token.
    Exits with 0 when the emulator is ready, or with 1 after the timeout or when the emulator exits.
    Prints each phase of the emulator's start to stderr, and at the end which emulator is ready.
    """
    # These imports are slow, and `wait --help` does not need them.
    from workers_ai_emulator.launcher.identity import ExpectedProcess, identity_of
    from workers_ai_emulator.launcher.readiness import phases

    unknown_setting_variables()
    if math.isnan(timeout):
        raise TyperException(f"--timeout takes a number of seconds, not {timeout}")
    host, port = _address(url) if url else (reachable_host(host), port)
    root = f"http://{Settings(host=host).base_url_host}:{port}"
    deadline = time.monotonic() + timeout
    expected = ExpectedProcess(pid) if pid else None
    printed = None
    for phase in phases(host, port):
        if expected:
            expected.check(host, port)
        if printed and phase is None:
            raise CommandError(f"the emulator at {root} has ended; its own output has the reason")
        if phase and phase != printed:
            print_to_stderr(f"waiting for the emulator at {root}: {phase}")
            printed = phase
        if time.monotonic() >= deadline:
            raise CommandError(_timeout_message(root, phase, timeout))
    if expected:
        expected.check(host, port)
    if identity := identity_of(host, port):
        print_to_stderr(f"the emulator at {root} is ready ({identity})")


def _address(url: str) -> tuple[str, int]:
    """Returns the host and the port in `url`, by default 80.

    Raises TyperException if `url` is no http URL.
    """
    try:
        parts = urlsplit(url.strip())
        host, port = parts.hostname, 80 if parts.port is None else parts.port
    except ValueError:
        host = None
    if not host or not port or parts.scheme != "http" or re.search(r"[\s\x00-\x1f\x7f]", host):
        raise TyperException(f"--url takes a URL such as http://127.0.0.1:8790{but_not(url)}")
    return host, port


def _timeout_message(root: str, phase: str | None, timeout: float) -> str:
    if phase:
        return f"the emulator at {root} is not ready after {timeout:g} s: {phase}"
    return (
        f"no emulator answers at {root} after {timeout:g} s: start one with `workers-ai-emulator "
        "serve`, or give its address with --url"
    )
