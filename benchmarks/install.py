"""Measures the first start: from a clean clone with empty caches to the first response."""

from __future__ import annotations

import json
import os
import resource
import signal
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks import tables
from benchmarks.conditions import MODEL_NAME, Conditions
from benchmarks.servers import API

_CHECKOUT = Path(__file__).parents[1]
_BODY = json.dumps({"prompt": "Why is pizza so good", "max_tokens": 256}).encode()


@dataclass(frozen=True, slots=True)
class Start:
    """One `make serve`: seconds until the server was ready and until the end of its first response.

    `processor_s`: the processor time of all processes until then, in seconds.
    """

    ready_s: float
    response_s: float
    processor_s: float


def report(conditions: Conditions) -> Iterator[str]:
    """Yields a table with the first and the second start of each round, and their medians.

    Compiling takes minutes; pip downloads about 120 MB in each round.
    """
    if sys.platform == "win32":
        yield "Not measured: make needs Linux or macOS."
        return
    rounds = [_measure() for _ in range(conditions.num_rounds)]
    yield (
        "The command `make serve` in a clean clone of the last commit, with an empty pip cache and "
        "an empty home folder; then the same command again. Medians."
    )
    first, second = zip(*rounds, strict=True)
    rows = [["first start", *_medians(first)], ["second start", *_medians(second)]]
    yield tables.markdown(["", "ready, s", "first response, s", "processor time, s"], rows)


def _medians(starts: Sequence[Start]) -> list[str]:
    columns = zip(*((s.ready_s, s.response_s, s.processor_s) for s in starts), strict=True)
    return [f"{statistics.median(column):.1f}" for column in columns]


def _measure() -> tuple[Start, Start]:
    """Clones the last commit into a temporary folder, and starts the server there twice."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        clone = folder / "clone"
        subprocess.run(["git", "clone", "--quiet", _CHECKOUT, clone], check=True)
        home = {"HOME": name, "PIP_CACHE_DIR": f"{name}/pip", "XDG_CACHE_HOME": f"{name}/cache"}
        environment = os.environ | home | {"WORKERS_AI_EMULATOR_PORT": "0"}
        return _start(clone, environment), _start(clone, environment)


def _start(clone: Path, environment: dict[str, str]) -> Start:
    start_s, processor_s = time.perf_counter(), _processor_s()
    process = subprocess.Popen(
        ["make", "serve"],
        cwd=clone,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        root = process.stdout.readline().strip().removesuffix("/client/v4")
        if not root:
            raise SystemExit("make serve failed: run it in a clean clone to see why")
        ready_s = time.perf_counter() - start_s
        with urllib.request.urlopen(_request(root)) as response:
            response.read()
        response_s = time.perf_counter() - start_s
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.communicate()
    return Start(ready_s, response_s, _processor_s() - processor_s)


def _request(root: str) -> urllib.request.Request:
    headers = {"authorization": "Bearer x", "content-type": "application/json"}
    return urllib.request.Request(f"{root}{API}/run/{MODEL_NAME}", _BODY, headers)


def _processor_s() -> float:
    """Returns the processor time of all ended child processes."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
