"""Measures how long a server takes to respond to a health probe.

Like a container platform, each probe opens a connection, sends one request and waits for the
response on a blocking socket.
"""

from __future__ import annotations

import math
import socket
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from benchmarks import tables

INTERVAL_S = 0.05
_LIMIT_S = 10.0


@dataclass(frozen=True, slots=True)
class Probes:
    """The seconds that each probe took, and the number of probes without a 200 response."""

    latencies: list[float]
    num_failed: int

    def percentile_ms(self, percent: float) -> float:
        """Returns a percentile of the latencies in ms, as if a probe had started every 50 ms."""
        return 1000 * tables.percentile(with_missed(self.latencies, INTERVAL_S), percent)


def probe(port: int, path: str, seconds: float) -> Probes:
    """Sends a probe every 50 ms for `seconds`. A slow response delays the next probe."""
    request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode()
    latencies, num_failed = [], 0
    end_s = time.perf_counter() + seconds
    while (start_s := time.perf_counter()) < end_s:
        num_failed += not _is_healthy(port, request)
        latencies.append(time.perf_counter() - start_s)
        time.sleep(max(INTERVAL_S - latencies[-1], 0))
    return Probes(latencies, num_failed)


def with_missed(latencies: Iterable[float], interval_s: float) -> Iterator[float]:
    """Yields each latency, and the latencies of the probes that a slow response prevented.

    A probe starts only after the previous response. If a response takes 1 s, 19 probes are missing:
    the first of them would have taken 0.95 s, the last 0.05 s. Their latencies are added, because
    otherwise a blocked server would have hardly any slow probes.
    """
    for latency in latencies:
        num_missed = math.ceil(latency / interval_s) - 1
        yield from (latency - number * interval_s for number in range(max(num_missed, 0) + 1))


def _is_healthy(port: int, request: bytes) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=_LIMIT_S) as connection:
            connection.sendall(request)
            return connection.recv(4096).startswith(b"HTTP/1.1 200")
    except OSError:
        return False
