"""Measures the emulator with weights that have Llama 2 7B's size but random values.

Speed and memory are the same as with the real weights, because they do not depend on the values.
"""

from __future__ import annotations

import asyncio
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import psutil
from workers_ai_emulator.engine.types import WeightsType
from workers_ai_emulator.machine import in_units
from workers_ai_emulator.models.models_file import FILE_NAME

from benchmarks import comparison, measurements, prompts, random_weights, servers, tables
from benchmarks.client import ChatRequest, TimedResponse, send
from benchmarks.conditions import MODEL_NAME, Conditions
from benchmarks.requests import Client
from benchmarks.scenarios import ClosedLoop
from benchmarks.servers import Server, ServerSpec

log = logging.getLogger(__name__)

_NUM_SLOTS, _CONTEXT_LENGTH = 4, 512
_LONG_PROMPT = prompts.LONG_PROMPT[:1400]  # about 400 tokens
_LIMIT_S = 600
_START_HEADINGS = [
    *("", "first start, s", "cold, s", "warm, s", "resident, MiB", "not mapped, MiB"),
    *("resident after a prompt of 400 tokens", "not mapped"),
]


@dataclass(frozen=True, slots=True)
class Phase:
    """The phase of a request (prefill or decode) in which a benchmark interrupts the request.

    The phase begins `start_s` seconds after the client sends the request, and lasts at least
    `length_s` seconds. `has_tokens`: whether tokens have been generated in this phase.
    """

    name: str
    prompt: str
    max_tokens: int
    has_tokens: bool
    start_s: float = 0.0
    length_s: float = 0.0

    def body(self, number: int) -> dict[str, Any]:
        """Returns a request body whose prompt begins with `number`.

        Requests with different numbers therefore share no cached prefix.
        """
        prompt = f"{number}: {self.prompt}"
        return {"prompt": prompt, "raw": True, "max_tokens": self.max_tokens, "temperature": 0}

    def moments(self, count: int) -> list[float]:
        """Returns `count` times that are spread evenly over the phase.

        A time is the number of seconds since the client sent the request.
        """
        return [self.start_s + (i + 0.5) / count * self.length_s for i in range(count)]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How long a measured operation took, and whether its result was as expected."""

    elapsed_s: float
    is_expected: bool


def report(conditions: Conditions, weights_type: WeightsType = "Q8_0") -> Iterator[str]:
    """Yields tables of start times, memory, speed, and the time to end interrupted requests."""
    path = random_weights.default_path(weights_type)
    log.info("writing %s, unless it exists", path)
    random_weights.ensure(path, weights_type)
    with tempfile.TemporaryDirectory() as folder:
        sized = replace(conditions, models_dir=Path(folder), weights=_as_model(Path(folder), path))
        yield (
            f"The weights are the file {path.name} ({in_units(path.stat().st_size)}): Llama 2 7B "
            f"with random values. Each server has {_NUM_SLOTS} slots of {_CONTEXT_LENGTH} tokens."
        )
        yield from _starts(sized, path)
        yield from _speeds(sized)
        yield from _interruptions(sized)


def _as_model(models_dir: Path, weights: Path) -> Path:
    """Makes `weights` the weights of the model MODEL_NAME in the models folder `models_dir`.

    Writes a models file and a symbolic link to the weights. Returns the path of the link.
    """
    link = models_dir / weights.name
    link.symlink_to(weights)
    entry = f'["{MODEL_NAME}"]\nfile = "{link.name}"\n'
    (models_dir / FILE_NAME).write_text(entry, "utf-8")
    return link


# ── start and memory ──────────────────────────────────────────────────────────────────────────


def _starts(conditions: Conditions, weights: Path) -> Iterator[str]:
    yield "### From the start of the process to ready"
    yield (
        "Cold: the weights are not in this machine's page cache; the host of a virtual machine may "
        "still have them cached. On its first start, the emulator also test-loads the file in a "
        "subprocess. Resident: the resident memory of the process, which includes the weights that "
        "are mapped from the file and have been read. Not mapped: the resident memory without "
        "mapped files."
    )
    specs = servers.concurrent_specs(conditions)
    yield tables.markdown(_START_HEADINGS, [_start(spec, weights) for spec in specs])


def _start(spec: ServerSpec, weights: Path) -> list[str]:
    """Starts the server three times. Returns a table row with the start times and the memory."""
    times, memory = [], []
    for number, is_cold in enumerate((True, True, False), start=1):
        log.info("start %d of %s", number, spec.name)
        if is_cold:
            _drop_from_page_cache(weights)
        with servers.running(spec, _NUM_SLOTS, _CONTEXT_LENGTH) as server:
            times.append(f"{server.start_s:.1f}")
            if not is_cold:
                memory = _memory(server)
                asyncio.run(send(server, TimedResponse(ChatRequest(_LONG_PROMPT, max_tokens=4))))
                memory += _memory(server)
    return [spec.name, *times, *memory]


def _memory(server: Server) -> list[str]:
    own = server.own_memory
    return [f"{server.memory / 2**20:.0f}", "-" if own is None else f"{own / 2**20:.0f}"]


def _drop_from_page_cache(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)  # only pages that are on the disk can be dropped from the cache
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(file)


# ── speed ─────────────────────────────────────────────────────────────────────────────────────


def _speeds(conditions: Conditions) -> Iterator[str]:
    specs = servers.concurrent_specs(conditions)
    rivals = [spec.name for spec in specs if spec.name != servers.OURS]
    for num_clients in (1, 4):
        scenario = ClosedLoop(
            num_clients,
            num_requests=1 if conditions.is_quick else 3,
            max_tokens=16,
            num_slots=_NUM_SLOTS,
            context_length=_CONTEXT_LENGTH,
        )
        yield f"### {scenario.description}"
        runs = comparison.measure(scenario, specs, conditions.num_rounds)
        yield measurements.table(runs, servers.OURS, rivals)


# ── interruptions ─────────────────────────────────────────────────────────────────────────────


def _interruptions(conditions: Conditions) -> Iterator[str]:
    yield "### Interrupted requests"
    count = 2 if conditions.is_quick else 5
    rows: list[list[str]] = []
    log.info("clients that disconnect")
    with _ours(conditions) as server:
        phases = _phases(server)
        for phase in phases:
            outcomes = [
                _disconnect(server, phase, number, after_s)
                for number, after_s in enumerate(phase.moments(count), start=1)
            ]
            rows.append(_row(f"disconnect during {phase.name}: until the slot is free", outcomes))
    limit_s = round(phases[0].length_s / 8, 1)
    log.info("requests that take longer than %.1f s", limit_s)
    with _ours(conditions, "--request-timeout", str(limit_s)) as server:
        for phase in phases:
            both = [_time_out(server, phase, number, limit_s) for number in range(1, count + 1)]
            name = f"request timeout of {limit_s:.1f} s during {phase.name}"
            rows.append(_row(f"{name}: delay of the 408", [late for late, _ in both]))
            rows.append(_row(f"{name}: from the 408 until the slot is free", [f for _, f in both]))
    for phase in phases:
        log.info("stops during %s", phase.name)
        outcomes = [_stop(conditions, phase) for _ in range(conditions.num_rounds)]
        rows.append(_row(f"SIGTERM during {phase.name}: until the process has ended", outcomes))
    yield tables.markdown(["", "median, s", "longest, s", "as expected"], rows)


def _ours(conditions: Conditions, *flags: str) -> AbstractContextManager[Server]:
    return servers.running(servers.ours(conditions, *flags), _NUM_SLOTS, _CONTEXT_LENGTH)


def _phases(server: Server) -> tuple[Phase, Phase]:
    """Measures on the server when prefill and decode begin, and returns these two phases."""
    prefill = Phase("a prompt of 400 tokens", _LONG_PROMPT, max_tokens=1, has_tokens=False)
    _, prefill_s = _send(server, prefill.body(0))
    decode = Phase("generation", prompts.WARM_UP, max_tokens=400, has_tokens=True)
    _, first_token_s = _send(server, decode.body(0) | {"max_tokens": 1})
    return (
        replace(prefill, length_s=0.9 * prefill_s),
        replace(decode, start_s=2 * first_token_s, length_s=2.0),
    )


def _disconnect(server: Server, phase: Phase, number: int, after_s: float) -> Outcome:
    """Measures the time from a client's disconnect until the slot is free.

    The client disconnects after `after_s` seconds. The outcome is as expected if the server cancels
    the request in the given phase.
    """

    async def send_and_disconnect() -> float:
        async with Client(server.run_url(MODEL_NAME)) as client:
            await client.send_and_disconnect(phase.body(number), after_s=after_s)
            return time.perf_counter()

    num_cancelled, num_prompt_tokens = _num_cancelled(server), _num_prompt_tokens(server)
    disconnected_s = asyncio.run(send_and_disconnect())
    elapsed_s = _wait_until_free(server) - disconnected_s
    is_cancelled = _num_cancelled(server) == num_cancelled + 1
    has_tokens = _num_prompt_tokens(server) > num_prompt_tokens
    return Outcome(elapsed_s, is_cancelled and has_tokens == phase.has_tokens)


def _time_out(server: Server, phase: Phase, number: int, limit_s: float) -> tuple[Outcome, Outcome]:
    """Measures a request that takes longer than the server's request timeout, `limit_s`.

    Returns the time from the timeout to the response, and the time from the response until the slot
    is free. The outcomes are as expected if the status is 408.
    """
    status, elapsed_s = _send(server, phase.body(number))
    responded_s = time.perf_counter()
    free_s = _wait_until_free(server) - responded_s
    is_expected = status == httpx.codes.REQUEST_TIMEOUT
    return Outcome(elapsed_s - limit_s, is_expected), Outcome(free_s, is_expected)


def _stop(conditions: Conditions, phase: Phase) -> Outcome:
    """Measures the time from SIGTERM, during a request, to the end of the server's process.

    The outcome is as expected if the exit code is 0 and the client receives a response.
    """
    (after_s,) = phase.moments(1)
    with _ours(conditions) as server, ThreadPoolExecutor(1) as pool:
        response = pool.submit(_send, server, phase.body(1))
        time.sleep(after_s)
        process = psutil.Process(server.pid)
        start_s = time.perf_counter()
        process.terminate()
        exit_code = process.wait(_LIMIT_S)
        elapsed_s = time.perf_counter() - start_s
        status, _ = response.result()
    log.info("exit code %s, the client got %s", exit_code, status or "no response")
    has_response = status in (httpx.codes.OK, httpx.codes.REQUEST_TIMEOUT)
    return Outcome(elapsed_s, exit_code == 0 and has_response)


def _send(server: Server, body: dict[str, Any]) -> tuple[int | None, float]:
    """Sends a request; returns the status of the response, and the seconds that it took.

    The status is None if the server closed the connection without a response.
    """
    start_s = time.perf_counter()
    try:
        status = httpx.post(server.run_url(MODEL_NAME), json=body, timeout=_LIMIT_S).status_code
    except httpx.TransportError:
        status = None
    return status, time.perf_counter() - start_s


def _wait_until_free(server: Server) -> float:
    """Waits until all slots of the server are free, then returns `time.perf_counter()`."""
    deadline = time.perf_counter() + _LIMIT_S
    while server.metric("free_slots") < server.metric("slots"):
        if time.perf_counter() > deadline:
            raise SystemExit(f"a slot is still taken after {_LIMIT_S} s")
        time.sleep(0.01)
    return time.perf_counter()


def _num_cancelled(server: Server) -> float:
    return server.metric("requests_total", reason="cancelled")


def _num_prompt_tokens(server: Server) -> float:
    """Returns the sum of the prompt tokens of all requests that have generated a token."""
    return server.metric("tokens_total", kind="prompt")


def _row(name: str, outcomes: Sequence[Outcome]) -> list[str]:
    times = [outcome.elapsed_s for outcome in outcomes]
    num_expected = sum(outcome.is_expected for outcome in outcomes)
    return [
        name,
        f"{statistics.median(times):.2f}",
        f"{max(times):.2f}",
        f"{num_expected} of {len(outcomes)}",
    ]
