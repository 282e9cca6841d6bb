"""Tests what the command `check` measures, with a fake model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from workers_ai_emulator.engine.engine import Engine
from workers_ai_emulator.engine.tiling import Tiling
from workers_ai_emulator.engine.types import Chunk, FinishReason, SamplingParams
from workers_ai_emulator.runtime.determinism import (
    TrialRequest,
    compare,
    completion_length,
    make_requests,
    try_determinism,
)
from workers_ai_emulator.runtime.speed import Run, Speed, call_durations, measure_speeds

from tests.fakes import FakeRunner, FakeVocabulary
from tests.loop import in_loop

LIMIT_S = 60.0  # longer than any test takes
TILING = Tiling()


class DifferingRunner(FakeRunner):
    """A fake model whose completions change if several requests run at the same time."""

    def next_token(self, cells: list[int], num_prompt_tokens: int, params: SamplingParams) -> int:
        token = super().next_token(cells, num_prompt_tokens, params)
        return token if self.num_open_samplers == 1 else ord("!")


@asynccontextmanager
async def running(runner: FakeRunner, *, drafts: bool = False) -> AsyncIterator[Engine]:
    engine = Engine(runner, queue_size=64, tiling=TILING, snapshot_tokens=256, drafts=drafts)
    try:
        yield engine
    finally:
        runner.gate.set()
        await engine.close()


def fake_runner() -> FakeRunner:
    return FakeRunner(context_length=1024, tiling=TILING)


# ── speed ───────────────────────────────────────────────────────────────────────────────────────


def test_the_speed_of_one_client_counts_the_tokens_after_the_first() -> None:
    run = Run([[1.0, 1.5, 2.0]], is_cut=False)
    assert (run.tokens_per_s, run.first_token_s, run.num_tokens) == (2, 1, 3)


def test_the_speed_of_two_clients_counts_from_when_both_have_a_token() -> None:
    run = Run([[1.0, 1.5, 2.0001, 3.0, 4.0], [2.0, 3.0001, 4.0]], is_cut=False)
    assert (run.tokens_per_s, run.first_token_s) == (2, 1.5)


@pytest.mark.parametrize("times", [[[1.0], []], [[]], [[1.0], [1.0001]]])
def test_too_few_tokens_have_no_speed(times: list[list[float]]) -> None:
    assert Run(times, is_cut=True).tokens_per_s is None


def test_the_speed_is_the_median_of_the_runs() -> None:
    runs = [Run([[one, one + duration]], False) for one, duration in ((1, 4), (2, 1), (3, 2))]
    speed = Speed(1, [*runs, Run([[]], False)])
    assert (speed.tokens_per_s, speed.first_token_s, speed.is_cut) == (0.5, 2, False)


def test_without_tokens_there_is_no_speed() -> None:
    speed = Speed(4, [Run([[]], is_cut=True)])
    assert (speed.tokens_per_s, speed.first_token_s, speed.is_cut) == (None, None, True)


@in_loop
async def test_one_client_and_four_clients_generate_64_tokens_each() -> None:
    async with running(fake_runner()) as engine:
        speeds = await measure_speeds(engine, limit_s=LIMIT_S)
    assert [speed.num_clients for speed in speeds] == [1, 4]
    assert [[run.num_tokens for run in speed.runs] for speed in speeds] == [[64] * 3, [256] * 3]
    assert not any(speed.is_cut for speed in speeds)


@in_loop
async def test_the_time_limit_ends_a_run() -> None:
    runner = FakeRunner(context_length=1024, tiling=TILING, block_at=5)
    async with running(runner) as engine:
        one, _ = await measure_speeds(engine, limit_s=0.2)
    assert one.is_cut and one.num_tokens < 64


@in_loop
async def test_the_durations_of_all_calls_are_measured() -> None:
    async with running(fake_runner(), drafts=True) as engine:
        durations, is_complete = await call_durations(engine, limit_s=LIMIT_S)
    assert ([*durations], is_complete) == ([1, 2, 4, 8, 16], True)
    assert all(duration > 0 for duration in durations.values())


@in_loop
async def test_an_engine_without_drafts_measures_no_calls() -> None:
    async with running(fake_runner()) as engine:
        assert await call_durations(engine, limit_s=LIMIT_S) == ({}, True)


@in_loop
async def test_the_time_limit_ends_the_measurement_of_calls() -> None:
    runner = FakeRunner(context_length=1024, tiling=TILING, block_at=1)
    async with running(runner, drafts=True) as engine:
        measuring = asyncio.create_task(call_durations(engine, limit_s=0))
        await asyncio.sleep(0)  # lets the task reach its limit, while the first call is blocked
        runner.gate.set()
        _, is_complete = await measuring
    assert not is_complete


# ── determinism ─────────────────────────────────────────────────────────────────────────────────


def test_the_requests_differ_in_length_and_sampling() -> None:
    requests = make_requests(FakeVocabulary(), context_length=4096, max_tokens=24)
    lengths = [len(request.prompt_tokens) for request in requests]
    assert lengths == sorted(set(lengths)) and (lengths[0], lengths[-1]) == (4, 600)
    assert {request.params.seed is None for request in requests} == {True, False}
    assert {request.params.temperature for request in requests} == {0.0, 1.0}


def test_the_requests_fit_a_short_context() -> None:
    for request in make_requests(FakeVocabulary(), context_length=256, max_tokens=24):
        assert len(request.prompt_tokens) + (request.params.max_tokens or 0) <= 256


@in_loop
async def test_equal_completions_are_no_differences() -> None:
    runner = fake_runner()
    async with running(runner) as engine:
        trial = await try_determinism(engine, tokens_per_s=100, limit_s=LIMIT_S)
    assert (trial.num_planned, trial.num_compared, trial.num_different) == (36, 36, 0)
    assert len(trial.requests) == 12


@in_loop
async def test_completions_that_depend_on_other_requests_are_differences() -> None:
    async with running(DifferingRunner(context_length=1024, tiling=TILING)) as engine:
        trial = await try_determinism(engine, tokens_per_s=100, limit_s=LIMIT_S)
    *together, alone = trial.rounds
    assert (alone.num_compared, alone.differences) == (12, [])
    assert all(round.differences for round in together)
    assert trial.num_different == sum(len(round.differences) for round in together)


@in_loop
async def test_the_time_limit_ends_a_trial() -> None:
    runner = FakeRunner(context_length=1024, tiling=TILING, block_at=1)
    async with running(runner) as engine:
        trial = await try_determinism(engine, tokens_per_s=None, limit_s=0.2)
    assert (trial.num_planned, trial.num_compared, trial.num_different) == (36, 0, 0)


@pytest.mark.parametrize(
    ("tokens_per_s", "max_tokens"), [(0.0, 4), (1.0, 4), (40.0, 10), (1000.0, 24)]
)
def test_completions_of_slow_engines_are_shorter(tokens_per_s: float, max_tokens: int) -> None:
    assert completion_length(tokens_per_s, limit_s=20) == max_tokens


def test_a_difference_names_the_first_token_that_differs() -> None:
    request = TrialRequest([1], SamplingParams())
    a, b, end = Chunk("a"), Chunk("b"), Chunk("", FinishReason.STOP)
    expected = [(request, [a, b, end])] * 4
    round = compare("again", expected, [[a, b, end], [a, a, end], [a, b], None])
    assert round.num_compared == 3
    assert [difference.token for difference in round.differences] == [1, 2]
