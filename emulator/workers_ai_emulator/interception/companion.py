"""Finds a running emulator for `exec`. If none runs, starts one, and stops it at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from urllib.parse import urlsplit

from workers_ai_emulator.interception.proxy import Address
from workers_ai_emulator.launcher.child import emulator_process
from workers_ai_emulator.launcher.identity import check_settings
from workers_ai_emulator.launcher.readiness import phases


@contextmanager
def companion(
    address: Address,
    variables: Mapping[str, str],
    report: Callable[[str], None],
    wanted: Mapping[str, object] | None = None,
) -> Iterator[Address]:
    """Yields the address of an emulator that is ready: a running emulator or a new one.

    If an emulator responds at `address`, waits until it is ready. Meanwhile, calls `report` with a
    text for each phase of the emulator's start. If no emulator responds, or if the port is 0,
    starts a new emulator with the environment `variables`. Stops the new emulator when the `with`
    block ends. Raises CommandError if the new emulator fails to start, if the running emulator does
    not allow the host name of `address`, or if it has other values than `wanted`, which maps flags
    to values.
    """
    if address.port and _is_ready(address, report):
        check_settings(*address, wanted or {})
        yield address
        return
    has_log_level = "WORKERS_AI_EMULATOR_LOG_LEVEL" in variables
    flags = [] if has_log_level else ["--log-level", "warning"]
    with emulator_process(flags, variables) as base_url:
        parts = urlsplit(base_url)
        assert parts.hostname and parts.port
        yield Address(parts.hostname, parts.port)


def _is_ready(address: Address, report: Callable[[str], None]) -> bool:
    """If an emulator responds at the address, waits until it is ready, and returns True.

    During the wait, calls `report` with a text for each phase of the emulator's start. Returns
    False if no emulator responds at the address. Raises CommandError if the emulator does not allow
    the host name.
    """
    reported = None
    for phase in phases(*address):
        if phase is None:
            return False
        if phase != reported:
            report(f"waiting for the emulator at {address}: {phase}")
            reported = phase
    return True
