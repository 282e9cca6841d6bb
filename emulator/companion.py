"""An emulator for one command: one that runs already, or one that ends with the command."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from urllib.parse import urlsplit

from emulator.errors import CommandError
from emulator.proxy import Address

_ANSWER_LIMIT_S = 5.0
_POLL_INTERVAL_S = 0.2
_STOP_LIMIT_S = 10.0


@contextmanager
def companion(
    address: Address, variables: Mapping[str, str], tell: Callable[[str], None]
) -> Iterator[Address]:
    """Where an emulator listens that is ready: at `address` if there is one, else elsewhere.

    Port 0 always starts one. `tell` gets a line if that takes time. Raises CommandError.
    """
    if address.port and _wait_until_ready(address, tell):
        yield address
        return
    with _started(variables) as started:
        yield started


def _wait_until_ready(address: Address, tell: Callable[[str], None]) -> bool:
    """False as soon as no emulator is there."""
    if _status(address, "healthz") != "alive":
        return False
    said = None
    while (phase := _status(address, "readyz")) != "ready":
        if phase is None:
            return False
        if phase != said:
            tell(f"waiting for the emulator at {address}: {phase}")
            said = phase
        time.sleep(_POLL_INTERVAL_S)
    return True


def _status(address: Address, endpoint: str) -> str | None:
    """What an emulator says of itself; None from anything else, which is left alone."""
    connection = http.client.HTTPConnection(*address, timeout=_ANSWER_LIMIT_S)
    try:
        connection.request("GET", f"/_emulator/{endpoint}")
        return str(json.loads(connection.getresponse().read(2**16))["status"])
    except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError):
        return None
    finally:
        connection.close()


@contextmanager
def _started(variables: Mapping[str, str]) -> Iterator[Address]:
    """A child process rather than a thread: should llama.cpp crash, the command goes on."""
    level = [] if "WORKERS_AI_EMULATOR_LOG_LEVEL" in variables else ["--log-level", "warning"]
    flags = ["--host", "127.0.0.1", "--port", "0", *level]
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "emulator.leash", "serve", *flags],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=variables,
        start_new_session=True,  # Ctrl-C is for the command, which may live on
    )
    assert process.stdin and process.stdout
    try:
        if not (base_url := process.stdout.readline().strip()):
            raise CommandError("the emulator did not start, so the command was not run")
        parts = urlsplit(base_url)
        assert parts.hostname and parts.port
        yield Address(parts.hostname, parts.port)
    finally:
        process.stdin.close()
        try:
            process.wait(_STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
