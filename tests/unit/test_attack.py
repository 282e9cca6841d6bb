"""Tests the benchmark `attack`: its requests, how its clients read responses, and its checks."""

from __future__ import annotations

import asyncio
import math
import random
import uuid
from collections import Counter
from dataclasses import replace

import pytest

from benchmarks.attack import attackers, findings, honest, hostile
from benchmarks.attack.exchange import Response, read_response
from benchmarks.attack.findings import AfterAttack
from benchmarks.attack.phase import Phase, Results, Sample
from benchmarks.attack.probe import Probes, with_missed

MIB = 2**20
START = Sample(at_s=0, memory=600 * MIB, num_files=16)
PHASE = Phase("attack", 1.0, num_busy=2, is_attacked=True, limit_ms=100)
PASSED = AfterAttack(
    num_slots=2,
    num_free_slots=2,
    num_requests=0,
    sample=replace(START, memory=650 * MIB),
    num_tracebacks=0,
    num_errors=0,
    stop_s=2.0,
    exit_status=0,
)


def results(
    *, health_s: float = 0.01, failed: int = 0, honest_counts: dict[str, int] | None = None
) -> Results:
    return Results(
        phase=PHASE,
        health=Probes([health_s] * 100, failed),
        peer=Probes([0.001] * 100, 0),
        honest=honest.Results(Counter(honest_counts or {"sent": 5, "equal": 5})),
        busy=Counter({"200": 9}),
        attack=attackers.Results(Counter({"responses 4xx": 3})),
        samples=[replace(START, at_s=second, memory=640 * MIB) for second in range(4)],
    )


def failures(of_phase: Results, after: AfterAttack = PASSED) -> list[str]:
    return [
        check.requirement for check in findings.checks(START, [of_phase], after) if not check.is_met
    ]


def test_a_server_without_faults_passes_all_checks() -> None:
    assert failures(results()) == []


@pytest.mark.parametrize("kind", ["wrong", "lost"])
def test_one_wrong_or_lost_response_fails_a_check(kind: str) -> None:
    found = results(honest_counts={"sent": 6, "equal": 5, kind: 1})
    assert failures(found) == [f"honest requests: {kind} responses"]


def test_responses_that_ask_to_try_again_fail_no_check() -> None:
    assert failures(results(honest_counts={"equal": 5, "status 429, tried again": 9})) == []


@pytest.mark.parametrize("kind", ["lost", "500"])
def test_a_busy_client_without_an_ordinary_response_fails_a_check(kind: str) -> None:
    found = replace(results(), busy=Counter({"200": 9, "429": 5, kind: 1}))
    assert failures(found) == ["busy clients: lost responses and other errors than capacity"]


@pytest.mark.parametrize("found", [results(health_s=0.2), results(failed=1)])
def test_slow_and_failed_probes_fail_the_check_of_the_phase(found: Results) -> None:
    assert failures(found) == ["attack: p99 of health probes below 100 ms, none fails"]


@pytest.mark.parametrize(
    "after",
    [
        replace(PASSED, num_free_slots=1),
        replace(PASSED, num_requests=1),
        replace(PASSED, sample=replace(START, num_files=40)),
        replace(PASSED, sample=replace(START, memory=900 * MIB)),
        replace(PASSED, num_tracebacks=1),
        replace(PASSED, stop_s=5.0),
        replace(PASSED, exit_status=1),
    ],
)
def test_what_the_attack_leaves_behind_fails_one_check(after: AfterAttack) -> None:
    assert len(failures(results(), after)) == 1


def test_a_slow_response_counts_for_the_probes_that_it_prevented() -> None:
    assert list(with_missed([0.01, 0.19], 0.05)) == pytest.approx([0.01, 0.19, 0.14, 0.09, 0.04])


def test_the_slope_is_the_growth_per_second() -> None:
    samples = [Sample(at_s=second, memory=100 + 3 * second, num_files=1) for second in range(5)]
    assert findings.slope(samples) == pytest.approx(3)


def test_one_sample_has_no_slope() -> None:
    assert math.isnan(findings.slope([START]))


def test_equal_seeds_make_equal_hostile_requests() -> None:
    first, second = (
        [hostile.request(rng) for _ in range(200)]
        for rng in (random.Random("seed"), random.Random("seed"))
    )
    assert first == second


def test_no_hostile_request_names_a_fault() -> None:
    rng = random.Random("seed")
    requests = [hostile.request(rng) for _ in range(500)]
    assert not [data for data in requests if b"fault:" in data or b"x-emulator-fault" in data]


def read(*parts: bytes) -> Response:
    async def run() -> Response:
        reader = asyncio.StreamReader()
        reader.feed_data(b"".join(parts))
        reader.feed_eof()
        return await read_response(reader)

    return asyncio.run(run())


def test_a_body_with_a_length_is_read() -> None:
    assert read(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}") == Response(200, b"{}")


def test_a_chunked_body_is_joined() -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert read(head, b"3\r\nabc\r\n2\r\n\r\n\r\n0\r\n\r\n") == Response(200, b"abc\r\n")


@pytest.mark.parametrize("body", [b"3\r\nabc\r\n", b"3\r\na", b""])
def test_a_response_that_breaks_off_is_no_response(body: bytes) -> None:
    with pytest.raises(EOFError):
        read(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", body)


def test_only_code_3040_asks_the_client_to_try_again() -> None:
    assert Response(429, b'{"errors":[{"code":3040}]}').is_out_of_capacity
    assert Response(429, b'{"internalCode":3040}').is_out_of_capacity
    assert not Response(429, b'{"errors":[{"code":3036}]}').is_out_of_capacity


def test_ids_and_times_do_not_make_responses_different() -> None:
    first, second = (
        b'{"id":"%s","created":%d,"text":"a"}' % (str(uuid.uuid4()).encode(), created)
        for created in (1, 2)
    )
    assert honest.comparable(first) == honest.comparable(second)
    assert honest.comparable(first) != honest.comparable(first.replace(b'"a"', b'"b"'))
