"""Checks whether the measured values meet the requirements, and formats tables of the values."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from workers_ai_emulator.machine import in_units

from benchmarks import tables
from benchmarks.attack.attackers import FAILURE
from benchmarks.attack.phase import Results, Sample

STOP_LIMIT_S = 4.0
# Permitted results of the busy clients' requests. All other results fail a check.
_ORDINARY = {"200", "429", "503", "refused"}
_MAX_GROWTH = 1.1
# The server may have this many more open files after the attack than before, because it may still
# hold connections that clients have just closed.
_MAX_FURTHER_FILES = 2


@dataclass(frozen=True, slots=True)
class AfterAttack:
    """The state of the server after the last phase of the attack, and how its process ended.

    `num_errors`: lines of the log with the level ERROR. `stop_s`: the seconds from SIGTERM until
    the process had ended, or infinity if it was killed.
    """

    num_slots: int
    num_free_slots: int
    num_requests: int
    sample: Sample
    num_tracebacks: int
    num_errors: int
    stop_s: float
    exit_status: int


@dataclass(frozen=True, slots=True)
class Check:
    """A requirement, the measured value as a text, and whether the value meets the requirement."""

    requirement: str
    value: str
    is_met: bool


def checks(start: Sample, phases: Sequence[Results], after: AfterAttack) -> list[Check]:
    """Returns all checks. `start`: the server's memory and open files before the first phase."""
    return [
        *_checks_of_clients(phases),
        *_checks_of_health(phases),
        *_checks_after(start, phases, after),
    ]


def _checks_of_clients(phases: Sequence[Results]) -> Iterator[Check]:
    counts = sum((results.honest.counts for results in phases), Counter[str]())
    failed = sum(results.attack.counts[f"responses {FAILURE}"] for results in phases)
    for kind in ("wrong", "lost"):
        yield Check(f"honest requests: {kind} responses", str(counts[kind]), not counts[kind])
    yield Check("honest requests: responses", f"{counts['equal']:,}", counts["equal"] > 0)
    busy = sum((results.busy for results in phases), Counter[str]())
    bad = {kind: count for kind, count in busy.items() if kind not in _ORDINARY}
    text = ", ".join(f"{count} {kind}" for kind, count in bad.items()) or "0"
    yield Check("busy clients: lost responses and other errors than capacity", text, not bad)
    yield Check(f"hostile requests: responses {FAILURE}, without 503", str(failed), not failed)


def _checks_of_health(phases: Sequence[Results]) -> Iterator[Check]:
    for results in phases:
        if limit_ms := results.phase.limit_ms:
            p99, failed = results.health.percentile_ms(99), results.health.num_failed
            yield Check(
                f"{results.phase.name}: p99 of health probes below {limit_ms:.0f} ms, none fails",
                f"{p99:.0f} ms, {failed} failed",
                p99 < limit_ms and not failed,
            )


def _checks_after(start: Sample, phases: Sequence[Results], after: AfterAttack) -> Iterator[Check]:
    free = f"{after.num_free_slots} of {after.num_slots}, {after.num_requests} requests"
    yield Check(
        "all slots free, no request running or waiting",
        free,
        after.num_free_slots == after.num_slots and not after.num_requests,
    )
    files = f"{start.num_files} before, {after.sample.num_files} after"
    is_closed = after.sample.num_files <= start.num_files + _MAX_FURTHER_FILES
    yield Check("open files as before", files, is_closed)
    growth = after.sample.memory / warm(phases).memory
    yield Check(
        f"memory at the end at most {_MAX_GROWTH} of the memory after the first attack",
        f"{growth:.2f}",
        growth <= _MAX_GROWTH,
    )
    yield Check("tracebacks in the log", str(after.num_tracebacks), not after.num_tracebacks)
    yield Check(
        f"exit with status 0 within {STOP_LIMIT_S:.0f} s of SIGTERM",
        f"status {after.exit_status} after {after.stop_s:.1f} s",
        after.exit_status == 0 and after.stop_s <= STOP_LIMIT_S,
    )


def warm(phases: Sequence[Results]) -> Sample:
    """Returns the last sample of the first phase with attackers.

    The server's memory at the end is compared with the memory in this sample.
    """
    return next(results.samples[-1] for results in phases if results.phase.is_attacked)


def slope(samples: Iterable[Sample]) -> float:
    """Returns the growth of memory in bytes/s: the slope of a line through the samples.

    Returns NaN for fewer than two samples.
    """
    points = [(sample.at_s, sample.memory) for sample in samples]
    if len(points) < 2:
        return math.nan
    times, sizes = zip(*points, strict=True)
    return statistics.linear_regression(times, sizes).slope


def table_of_checks(found: Iterable[Check]) -> str:
    rows = [[check.requirement, check.value, "yes" if check.is_met else "NO"] for check in found]
    return tables.markdown(["check", "measured", "passed"], rows)


def table_of_honest_requests(phases: Sequence[Results]) -> str:
    return _table_of_counts(phases, [results.honest.counts for results in phases])


def table_of_busy_clients(phases: Sequence[Results]) -> str:
    busy = [results for results in phases if results.busy]
    return _table_of_counts(busy, [results.busy for results in busy])


def table_of_attacks(phases: Sequence[Results]) -> str:
    attacked = [results for results in phases if results.phase.is_attacked]
    return _table_of_counts(attacked, [results.attack.counts for results in attacked])


def _table_of_counts(phases: Sequence[Results], counts: Sequence[Counter[str]]) -> str:
    kinds = dict.fromkeys(kind for of_phase in counts for kind in of_phase)
    rows = [[kind, *(f"{of_phase[kind]:,}" for of_phase in counts)] for kind in kinds]
    return tables.markdown(["", *(results.phase.name for results in phases)], rows)


def table_of_health(phases: Iterable[Results]) -> str:
    """Returns a table of the latencies and failures of health probes.

    It has two rows for each phase: the emulator, and a server that only sends a fixed response. A
    third row has the latencies of the second server in % of the emulator's latencies.
    """
    rows = []
    for results in phases:
        for name, probes in (("emulator", results.health), ("fixed response", results.peer)):
            figures = [f"{probes.percentile_ms(percent):.1f}" for percent in (50, 99, 100)]
            num_probes = [str(len(probes.latencies)), str(probes.num_failed)]
            rows.append([f"{results.phase.name}: {name}", *figures, *num_probes])
        rows.append(_share_of_machine(results))
    return tables.markdown(["", "p50, ms", "p99, ms", "max, ms", "probes", "failed"], rows)


def _share_of_machine(results: Results) -> list[str]:
    """Returns a table row: the fixed-response server's latencies in % of the emulator's."""
    shares = [
        f"{100 * results.peer.percentile_ms(percent) / results.health.percentile_ms(percent):.0f} %"
        for percent in (50, 99, 100)
    ]
    return [f"{results.phase.name}: share of the machine", *shares, "", ""]


def table_of_memory(start: Sample, phases: Sequence[Results], after: AfterAttack) -> str:
    rows = [["before the first phase", in_units(start.memory), str(start.num_files), ""]]
    for results in phases:
        last, growth = results.samples[-1], slope(_second_half(results.samples)) * 60 / 2**20
        most = max(sample.num_files for sample in results.samples)
        rows.append(
            [f"end of {results.phase.name}", in_units(last.memory), str(most), f"{growth:+.1f}"]
        )
    rows.append(["at the end", in_units(after.sample.memory), str(after.sample.num_files), ""])
    headings = ["", "resident memory", "open files, most", "growth, MiB/min"]
    return tables.markdown(headings, rows)


def _second_half(samples: Sequence[Sample]) -> Sequence[Sample]:
    return samples[len(samples) // 2 :]
