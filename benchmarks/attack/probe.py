"""Measures how long a server takes to respond to a health probe.

Every probe opens a connection, sends one request and waits for the response on a blocking socket,
as a container platform does.
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
        """Returns a percentile in ms, of one probe for every 50 ms, as far as that was possible."""
        return 1000 * tables.percentile(with_missed(self.latencies, INTERVAL_S), percent)


def probe(port: int, path: str, seconds: float) -> Probes:
    """Probes the server every 50 ms for `seconds`, or as often as it responds."""
    request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode()
    latencies, num_failed = [], 0
    end_s = time.perf_counter() + seconds
    while (start_s := time.perf_counter()) < end_s:
        num_failed += not _is_healthy(port, request)
        latencies.append(time.perf_counter() - start_s)
        time.sleep(max(INTERVAL_S - latencies[-1], 0))
    return Probes(latencies, num_failed)


def with_missed(latencies: Iterable[float], interval_s: float) -> Iterator[float]:
    """Yields the latencies, and those of the probes that a slow response prevented.

    A response that takes 1 s prevents the 19 probes that were due in that time. The first of them
    would have waited for 0.95 s, the last for 0.05 s. Without these, a server that stands still
    would have hardly any slow responses.
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
