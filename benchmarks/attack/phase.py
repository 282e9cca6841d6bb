"""Runs one phase of the attack: starts its clients in several processes, measures the server."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psutil

from benchmarks.attack import attackers, busy, honest, probe
from benchmarks.attack.probe import Probes
from benchmarks.attack.workers import Worker
from benchmarks.servers import Server

HEALTH_PATH = "/_emulator/healthz"
_SAMPLE_INTERVAL_S = 1.0


@dataclass(frozen=True, slots=True)
class Phase:
    """A phase of the attack: which clients send requests at the same time, and for how long.

    `share`: the phase's part of the whole duration, from 0 to 1. `num_busy`: the number of busy
    clients. `limit_ms`: the limit for the p99 of the latency of health probes; None for no limit.
    """

    name: str
    share: float
    num_busy: int
    is_attacked: bool = False
    limit_ms: float | None = None


# The attack with more clients comes first, so the server's memory should not grow in the second
# attack.
PHASES = (
    Phase("honest clients only", 0.05, num_busy=0),
    Phase("256 busy clients", 0.1, num_busy=256, limit_ms=100),
    Phase("1,000 busy clients", 0.1, num_busy=1000, limit_ms=500),
    Phase("attack, 1,000 busy clients", 0.4, num_busy=1000, is_attacked=True, limit_ms=500),
    Phase("attack, 256 busy clients", 0.35, num_busy=256, is_attacked=True, limit_ms=100),
)


@dataclass(frozen=True, slots=True)
class Sample:
    """The server's resident memory in bytes and number of open files, at the time `at_s`."""

    at_s: float
    memory: int
    num_files: int

    @classmethod
    def of(cls, server: Server) -> Sample:
        """Measures the server now. Raises SystemExit if the server's process has ended."""
        if server.process.poll() is not None:
            raise SystemExit(
                f"the server ended with status {server.process.returncode}: see {server.log_path}"
            )
        return cls(time.monotonic(), server.memory, psutil.Process(server.pid).num_fds())


@dataclass(frozen=True, slots=True)
class Results:
    """The measurements of one phase.

    `health`: probes of the emulator. `peer`: probes of a server that only sends a fixed response.
    """

    phase: Phase
    health: Probes
    peer: Probes
    honest: honest.Results
    busy: Counter[str]
    attack: attackers.Results
    samples: list[Sample]


def run(phase: Phase, server: Server, peer: Server, expected: list[bytes], seed: int,
        seconds: float) -> Results:  # fmt: skip
    """Runs all clients of the phase for `seconds`, and measures the emulator every second.

    `peer`: a second server, which only sends a fixed response. `expected`: the expected bodies of
    the responses to the honest clients.
    """
    name = f"{seed} {phase.name}"
    with _workers() as workers:

        def start(function: Any, *args: Any) -> Worker[Any]:
            workers.append(Worker(function, *args))
            return workers[-1]

        health = start(probe.probe, server.port, HEALTH_PATH, seconds)
        of_peer = start(probe.probe, peer.port, "/", seconds)
        equal = start(honest.run, server.port, expected, name, seconds)
        many = start(busy.run, server.port, phase.num_busy, name, seconds)
        attack = start(attackers.run, server.port, name, seconds if phase.is_attacked else 0.0)
        samples = list(_samples(server, workers))
        return Results(
            phase, health.result(), of_peer.result(), equal.result(), many.result(),
            attack.result(), samples,
        )  # fmt: skip


@contextmanager
def _workers() -> Iterator[list[Worker[Any]]]:
    """Yields an empty list, and stops all processes in the list after the `with` block."""
    workers: list[Worker[Any]] = []
    try:
        yield workers
    finally:
        for worker in workers:
            worker.stop()


def _samples(server: Server, workers: list[Worker[Any]]) -> Iterator[Sample]:
    """Yields a measurement of the server every second while any client process runs."""
    while any(worker.is_running for worker in workers):
        yield Sample.of(server)
        time.sleep(_SAMPLE_INTERVAL_S)
