"""Measures the time from the start of the emulator until its model has generated a token."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

from benchmarks import tables
from benchmarks.conditions import Conditions

NUM_RUNS = 5


def report(conditions: Conditions) -> Iterator[str]:
    """Yields a table with the median and the best time of several starts of the emulator.

    For comparison, the table also has the start times of the Python interpreter alone.
    """
    serve = [sys.executable, "-m", "workers_ai_emulator", "serve", "--port", "0"]
    interpreter = [sys.executable, "-c", "print('up', flush=True)"]
    seconds_until_first_line(serve)  # not measured: this start fills the page cache
    num_runs = 1 if conditions.is_quick else NUM_RUNS
    yield f"Time of {num_runs} starts with default settings, until the server is ready."
    rows = [
        [name, f"{statistics.median(times):.2f}", f"{min(times):.2f}"]
        for name, command in {"start to ready": serve, "interpreter alone": interpreter}.items()
        if (times := [seconds_until_first_line(command) for _ in range(num_runs)])
    ]
    yield tables.markdown(["", "median, s", "best, s"], rows)


def seconds_until_first_line(command: list[str]) -> float:
    """Starts the command, returns the seconds until its first line on stdout, and stops it."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout
    line = process.stdout.readline()
    elapsed_s = time.perf_counter() - start
    process.terminate()
    process.wait()
    if not line:
        raise SystemExit(f"{' '.join(command)} printed nothing")
    return elapsed_s
