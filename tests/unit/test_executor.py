"""Tests that the executor carries out each operation of the scheduler on the model."""

from __future__ import annotations

import pytest
from workers_ai_emulator.engine.errors import EngineError
from workers_ai_emulator.engine.executor import Executor
from workers_ai_emulator.engine.prefixes import Snapshot
from workers_ai_emulator.engine.scheduler import Copy, Decode, Discard, Save, Truncate
from workers_ai_emulator.engine.sequence import Sequence
from workers_ai_emulator.engine.types import FinishReason, SamplingParams, Span

from tests.fakes import END, FakeRunner

SNAPSHOT = Snapshot(1)


def evaluated(slot: int, tokens: list[int]) -> Decode:
    return Decode([Span(slot, 0, tokens, num_outputs=0)], outputs=[])


def test_a_decode_evaluates_its_spans() -> None:
    runner = FakeRunner(num_slots=2)
    spans = [Span(slot, 0, [slot, 7], num_outputs=0) for slot in (0, 1)]
    Executor(runner).execute(Decode(spans, outputs=[]))
    assert runner.cells == [[0, 7], [1, 7]]


def test_a_truncated_slot_keeps_its_first_cells() -> None:
    runner = FakeRunner(num_slots=1)
    executor = Executor(runner)
    executor.execute(evaluated(0, [1, 2, 3]))
    executor.execute(Truncate(0, 2))
    assert runner.cells == [[1, 2]]


def test_a_copy_from_a_slot_replaces_the_cells_of_the_target() -> None:
    runner = FakeRunner(num_slots=2)
    executor = Executor(runner)
    executor.execute(evaluated(0, [1, 2, 3]))
    executor.execute(evaluated(1, [9]))
    executor.execute(Copy(0, 1, 2))
    assert runner.cells == [[1, 2, 3], [1, 2]]


def test_a_snapshot_can_be_copied_after_its_slot_is_overwritten() -> None:
    runner = FakeRunner(num_slots=1)
    executor = Executor(runner)
    executor.execute(evaluated(0, [1, 2, 3]))
    executor.execute(Save(0, SNAPSHOT))
    executor.execute(Truncate(0, 0))
    executor.execute(evaluated(0, [9]))
    executor.execute(Copy(SNAPSHOT, 0, 3))
    assert runner.cells == [[1, 2, 3]]


def test_a_discarded_snapshot_cannot_be_copied() -> None:
    executor = Executor(FakeRunner(num_slots=1))
    executor.execute(evaluated(0, [1, 2, 3]))
    executor.execute(Save(0, SNAPSHOT))
    executor.execute(Discard(SNAPSHOT))
    with pytest.raises(KeyError):
        executor.execute(Copy(SNAPSHOT, 0, 1))


def test_a_failure_of_the_runner_is_raised() -> None:
    executor = Executor(FakeRunner(fail_at={1}))
    with pytest.raises(EngineError, match="decode failed"):
        executor.execute(evaluated(0, [1]))


def test_sampling_creates_one_sampler_and_appends_the_token() -> None:
    runner = FakeRunner()
    executor = Executor(runner)
    sequence = Sequence([1, 2], SamplingParams(max_tokens=2))
    executor.execute(Decode([Span(0, 0, [1, 2], num_outputs=1)], [sequence]))
    token = executor.sample(sequence, 0)
    executor.execute(Decode([Span(0, 2, [token], num_outputs=1)], [sequence]))
    executor.sample(sequence, 0)
    assert sequence.completion_tokens == runner.completion([1, 2], sequence.params)
    assert sequence.finish_reason is FinishReason.LENGTH
    assert runner.num_open_samplers == 1


def test_an_end_of_generation_token_ends_the_sequence() -> None:
    executor = Executor(FakeRunner(completion_length=0))
    sequence = Sequence([1, 2], SamplingParams())
    executor.execute(Decode([Span(0, 0, [1, 2], num_outputs=1)], [sequence]))
    assert executor.sample(sequence, 0) == END
    assert sequence.finish_reason is FinishReason.STOP
