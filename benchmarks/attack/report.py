"""Attacks the emulator for some minutes, and checks its responses and its resources."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from benchmarks import peers, scripted, servers
from benchmarks.attack import attackers, findings, honest, phase
from benchmarks.attack.exchange import post
from benchmarks.attack.findings import AfterAttack
from benchmarks.attack.phase import PHASES, Results, Sample
from benchmarks.conditions import MODEL_NAME, Conditions
from benchmarks.servers import API, Server

log = logging.getLogger(__name__)

_NUM_SLOTS, _CONTEXT_LENGTH = 16, 1024
_QUIET_LIMIT_S = 30.0
_KILL_AFTER_S = 30.0
_NUM_STREAMS_AT_STOP, _NUM_SILENT_AT_STOP = 16, 50


def report(conditions: Conditions) -> Iterator[str]:
    """Yields tables with all results. Raises SystemExit if the emulator fails a check."""
    yield _description(conditions)
    start, phases, after = _measure(conditions)
    checks = findings.checks(start, phases, after)
    yield f"### Honest requests\n\n{findings.table_of_honest_requests(phases)}"
    yield f"### Health probes\n\n{findings.table_of_health(phases)}"
    yield f"### Responses to the busy clients\n\n{findings.table_of_busy_clients(phases)}"
    yield f"### Attacks\n\n{findings.table_of_attacks(phases)}"
    yield f"### Memory and open files\n\n{findings.table_of_memory(start, phases, after)}"
    yield f"Lines of the log with the level ERROR: {after.num_errors}."
    yield from _examples(phases)
    yield f"### Checks\n\n{findings.table_of_checks(checks)}"
    if failed := sum(not check.is_met for check in checks):
        raise SystemExit(f"attack: {failed} of {len(checks)} checks failed")


def _description(conditions: Conditions) -> str:
    return (
        f"The attack takes {conditions.minutes:g} minutes; the seed of its random numbers is "
        f"{conditions.seed}. The emulator has {_NUM_SLOTS} slots of {_CONTEXT_LENGTH} tokens, the "
        "stand-in model and otherwise default settings. In every phase, "
        f"{honest.NUM_CLIENTS} honest clients compare the bytes of their responses with those of "
        "the emulator without other clients. Busy clients send requests for 32 tokens, keep their "
        "connections open, and after an error wait like OpenAI's SDK. In an attack, "
        f"{attackers.NUM_HOSTILE} clients send broken requests, {attackers.NUM_SLOW} send or read "
        f"slowly, {attackers.NUM_DISCONNECTING} disconnect at random moments, and every few "
        f"seconds {attackers.STORM_SIZE} streams begin and are dropped together. A process probes "
        f"`{phase.HEALTH_PATH}` every 50 ms; another one probes in the same way a server that "
        "only sends a fixed response. The second one shows how much of the latency comes from the "
        "machine, whose cores are all in use."
    )


def _measure(conditions: Conditions) -> tuple[Sample, list[Results], AfterAttack]:
    """Starts the servers, runs all phases, and stops the emulator."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        ours = servers.ours(replace(conditions, models_dir=folder))
        server = stack.enter_context(
            servers.running(ours, _NUM_SLOTS, _CONTEXT_LENGTH, "attack-server.log")
        )
        fixed = scripted.fixed_response_server()
        peer = stack.enter_context(servers.running(fixed, 1, 1, "attack-peer.log"))
        expected = asyncio.run(honest.expected_bodies(server.port))
        start = Sample.of(server)
        phases = [_run(each, server, peer, expected, conditions) for each in PHASES]
        return start, phases, _after(server, start)


def _run(
    each: phase.Phase, server: Server, peer: Server, expected: list[bytes], conditions: Conditions
) -> Results:
    log.info("%s", each.name)
    seconds = each.share * 60 * conditions.minutes
    return phase.run(each, server, peer, expected, conditions.seed, seconds)


def _after(server: Server, start: Sample) -> AfterAttack:
    """Waits at most 30 s until the emulator runs no requests, measures it, and stops it."""
    deadline = time.monotonic() + _QUIET_LIMIT_S
    while time.monotonic() < deadline and not _is_quiet(server, start):
        time.sleep(0.1)
    free, num_slots = int(server.metric("free_slots")), int(server.metric("slots"))
    num_requests = int(server.metric("running") + server.metric("waiting"))
    sample = Sample.of(server)
    stop_s = asyncio.run(_stop(server))
    text = server.log_path.read_text("utf-8", "replace")
    return AfterAttack(
        num_slots=num_slots,
        num_free_slots=free,
        num_requests=num_requests,
        sample=sample,
        num_tracebacks=text.count("Traceback (most recent call last)"),
        num_errors=sum(" ERROR " in line for line in text.splitlines()),
        stop_s=stop_s,
        exit_status=server.process.wait(),
    )


def _is_quiet(server: Server, start: Sample) -> bool:
    num_requests = server.metric("running") + server.metric("waiting")
    return not num_requests and Sample.of(server).num_files <= start.num_files


async def _stop(server: Server) -> float:
    """Sends SIGTERM to the emulator while it has 16 streams and 50 silent connections.

    Returns the seconds until the process has ended. After 30 s, kills the process and returns
    infinity.
    """
    request = post(f"{API}/run/{MODEL_NAME}", b'{"prompt":"Hi","stream":true,"max_tokens":900}')
    connections = [
        await asyncio.open_connection("127.0.0.1", server.port)
        for _ in range(_NUM_STREAMS_AT_STOP + _NUM_SILENT_AT_STOP)
    ]
    for _, writer in connections[:_NUM_STREAMS_AT_STOP]:
        writer.write(request)
    for reader, _ in connections[:_NUM_STREAMS_AT_STOP]:
        await reader.read(1)
    start_s = time.monotonic()
    server.process.terminate()
    try:
        await asyncio.to_thread(server.process.wait, _KILL_AFTER_S)
        return time.monotonic() - start_s
    except subprocess.TimeoutExpired:
        server.process.kill()
        return float("inf")
    finally:
        for _, writer in connections:
            writer.close()


def _examples(phases: list[Results]) -> Iterator[str]:
    """Yields examples of wrong or lost responses.

    Writes the requests that got a 5xx response to files, and yields the names of the files.
    """
    for results in phases:
        for example in results.honest.examples:
            yield f"{results.phase.name}: {example}"
    failures = [data for results in phases for data in results.attack.failures]
    for number, data in enumerate(failures):
        path = peers.CACHE / f"attack-request-{number}.bin"
        path.write_bytes(data)
        yield f"A hostile request that got a 5xx response: {path}"
