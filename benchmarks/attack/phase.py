"""Runs one phase of the attack: all clients of the phase, in several processes."""

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
    """The clients of a phase, its share of the whole time, and the limit for the p99 of probes."""

    name: str
    share: float
    num_busy: int
    is_attacked: bool = False
    limit_ms: float | None = None


# The server's caches and buffers are largest after the first attack, which is the larger one.
PHASES = (
    Phase("honest clients only", 0.05, num_busy=0),
    Phase("256 busy clients", 0.1, num_busy=256, limit_ms=100),
    Phase("1,000 busy clients", 0.1, num_busy=1000, limit_ms=500),
    Phase("attack, 1,000 busy clients", 0.4, num_busy=1000, is_attacked=True, limit_ms=500),
    Phase("attack, 256 busy clients", 0.35, num_busy=256, is_attacked=True, limit_ms=100),
)


@dataclass(frozen=True, slots=True)
class Sample:
    """The server's resident memory in bytes and its open files, at a time in seconds."""

    at_s: float
    memory: int
    num_files: int

    @classmethod
    def of(cls, server: Server) -> Sample:
        """Measures the server. Raises SystemExit if it has ended."""
        if server.process.poll() is not None:
            raise SystemExit(
                f"the server ended with status {server.process.returncode}: see {server.log_path}"
            )
        return cls(time.monotonic(), server.memory, psutil.Process(server.pid).num_fds())


@dataclass(frozen=True, slots=True)
class Results:
    """What the clients of a phase have measured. `peer`: probes of the server for comparison."""

    phase: Phase
    health: Probes
    peer: Probes
    honest: honest.Results
    busy: Counter[str]
    attack: attackers.Results
    samples: list[Sample]


def run(phase: Phase, server: Server, peer: Server, expected: list[bytes], seed: int,
        seconds: float) -> Results:  # fmt: skip
    """Runs all clients of the phase for `seconds`, and measures the server every second."""
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
    """Yields a list for processes, which are stopped after the `with` block."""
    workers: list[Worker[Any]] = []
    try:
        yield workers
    finally:
        for worker in workers:
            worker.stop()


def _samples(server: Server, workers: list[Worker[Any]]) -> Iterator[Sample]:
    """Measures the server once a second while any process runs."""
    while any(worker.is_running for worker in workers):
        yield Sample.of(server)
        time.sleep(_SAMPLE_INTERVAL_S)
