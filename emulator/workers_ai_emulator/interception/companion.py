"""The emulator for one command: a running one, or a new one that stops with the command."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from urllib.parse import urlsplit

from workers_ai_emulator.interception.proxy import Address
from workers_ai_emulator.launcher.child import emulator_process
from workers_ai_emulator.launcher.readiness import phases


@contextmanager
def companion(
    address: Address, variables: Mapping[str, str], report: Callable[[str], None]
) -> Iterator[Address]:
    """Yields the address of a ready emulator: the one at `address`, or otherwise a new one.

    Port 0 always starts a new one, with the environment `variables`. `report` receives each phase
    of the start that it waits for. Raises CommandError if the new emulator does not start.
    """
    if address.port and _is_ready(address, report):
        yield address
        return
    has_log_level = "WORKERS_AI_EMULATOR_LOG_LEVEL" in variables
    flags = [] if has_log_level else ["--log-level", "warning"]
    with emulator_process(flags, variables) as base_url:
        parts = urlsplit(base_url)
        assert parts.hostname and parts.port
        yield Address(parts.hostname, parts.port)


def _is_ready(address: Address, report: Callable[[str], None]) -> bool:
    """Waits until the emulator is ready. Returns False as soon as none responds at the address."""
    reported = None
    for phase in phases(*address):
        if phase is None:
            return False
        if phase != reported:
            report(f"waiting for the emulator at {address}: {phase}")
            reported = phase
    return True
