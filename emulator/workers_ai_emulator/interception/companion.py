"""An emulator for one command: one that runs already, or one that ends with the command."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from urllib.parse import urlsplit

from workers_ai_emulator.interception.proxy import Address
from workers_ai_emulator.launcher.child import started
from workers_ai_emulator.launcher.readiness import phases


@contextmanager
def companion(
    address: Address, variables: Mapping[str, str], tell: Callable[[str], None]
) -> Iterator[Address]:
    """Where an emulator listens that is ready: at `address` if there is one, else elsewhere.

    Port 0 always starts one. `tell` gets a line if that takes time. Raises CommandError.
    """
    if address.port and _is_ready(address, tell):
        yield address
        return
    is_silent = "WORKERS_AI_EMULATOR_LOG_LEVEL" not in variables
    with started(["--log-level", "warning"] if is_silent else [], variables) as base_url:
        parts = urlsplit(base_url)
        assert parts.hostname and parts.port
        yield Address(parts.hostname, parts.port)


def _is_ready(address: Address, tell: Callable[[str], None]) -> bool:
    """Wait for it; False as soon as no emulator is there."""
    said = None
    for phase in phases(*address):
        if phase is None:
            return False
        if phase != said:
            tell(f"waiting for the emulator at {address}: {phase}")
            said = phase
    return True
