"""Tests the scheduler: properties of hundreds of random runs, and decisions in constructed runs.

The fake model also asserts that positions, KV cells, copies and logits are right.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
from workers_ai_emulator.engine import scheduler
from workers_ai_emulator.engine.drafts import Drafter
from workers_ai_emulator.engine.executor import Executor
from workers_ai_emulator.engine.prefixes import Snapshot
from workers_ai_emulator.engine.scheduler import (
    Copy,
    Decode,
    Discard,
    Operation,
    Save,
    Scheduler,
    Truncate,
)
from workers_ai_emulator.engine.sequence import Sequence, SequenceStatus
from workers_ai_emulator.engine.tiling import Tiling
from workers_ai_emulator.engine.types import FinishReason, SamplingParams, Span

from tests.fakes import FakeRunner

CONTEXT_LENGTH = 96
NUM_RUNS = 300
TILING = Tiling(start=6, length=4, chunk_length=4, long_chunk_length=12)
CAN_FAIL = (Decode, Truncate, Copy, Save)


@dataclass
class Step:
    """The decode calls of one step of the scheduler.

    `running`: the sequences that were running before the step. `rows`: decode calls with one row
    for each sequence. `prompts`: the evaluated spans of prompt tokens, each with its sequence.
    """

    running: list[Sequence]
    rows: list[Decode] = field(default_factory=list)
    prompts: list[tuple[Sequence, Span]] = field(default_factory=list)
    failed: Operation | None = None


class Driver:
    """Executes the scheduler's operations on the fake model, and records the operations."""

    def __init__(
        self,
        runner: FakeRunner,
        *,
        tiling: Tiling = TILING,
        prefill_budget: int = 8,
        snapshot_tokens: int = 64,
        drafter: Drafter | None = None,
    ) -> None:
        self.runner = runner
        self.tiling = tiling
        self.snapshot_tokens = snapshot_tokens
        self.scheduler = Scheduler(
            num_slots=runner.num_slots,
            tiling=tiling,
            prefill_budget=prefill_budget,
            snapshot_tokens=snapshot_tokens,
            min_snapshot_tokens=4,
            drafter=drafter,
        )
        self.arrived: list[Sequence] = []
        self.drafts: list[tuple[int, int]] = []  # the numbers of accepted and of rejected tokens
        self.operations: list[Operation] = []
        self.steps: list[Step] = []
        self.executor = Executor(runner)
        self.snapshots: dict[Snapshot, int] = {}  # the number of tokens of each snapshot

    def add(self, prompt_tokens: list[int], max_tokens: int = 4) -> Sequence:
        sequence = Sequence(prompt_tokens, SamplingParams(max_tokens=max_tokens))
        self.arrived.append(sequence)
        self.scheduler.add(sequence)
        return sequence

    def cancel(self, sequence: Sequence) -> None:
        sequence.finish_reason = FinishReason.CANCELLED
        self.finish(sequence)

    def finish(self, sequence: Sequence, *, keep_cells: bool = True) -> None:
        self.scheduler.finish(sequence, keep_cells=keep_cells)
        if sequence.sampler:
            sequence.sampler.close()

    def step(self, *, failure: random.Random | None = None) -> Step:
        """Runs one step of the scheduler.

        `failure`: if given, 15 % of the operations fail; the first failure ends the step.
        """
        step = Step(running=list(self.scheduler.running))
        self.steps.append(step)
        for operation in self.scheduler.step():
            self.operations.append(operation)
            if failure and isinstance(operation, CAN_FAIL) and failure.random() < 0.15:
                self._fail(operation)
                step.failed = operation
                break
            if isinstance(operation, Decode):
                self._note(operation, step)
            self.executor.execute(operation)
            if isinstance(operation, Decode):
                self._sample(operation)
            self._track_snapshots(operation)
        self.scheduler.check_integrity()
        return step

    def run(self) -> None:
        for _ in range(1000):
            if self.scheduler.is_idle:
                return
            self.step()
        raise AssertionError("the scheduler is not idle after 1,000 steps")

    def _note(self, operation: Decode, step: Step) -> None:
        """Records a decode call in the step, and checks which sequences get logits."""
        owners = {sequence.slot: sequence for sequence in self.scheduler.sequences}
        sequences = [owners[span.slot] for span in operation.spans]
        owned = list(zip(sequences, operation.spans, strict=True))
        if all(len(span.tokens) == span.num_outputs for span in operation.spans):
            step.rows.append(operation)
        step.prompts += [
            (s, without_draft(span, s)) for s, span in owned if span.start < s.num_prompt_tokens
        ]
        with_logits = [s for s, o in zip(sequences, operation.spans, strict=True) if o.num_outputs]
        assert with_logits == operation.outputs

    def _sample(self, operation: Decode) -> None:
        for sequence, rows in operation.rows:
            num_drafted = len(sequence.draft)
            for row in rows:
                self.executor.sample(sequence, row)
                if sequence.finish_reason:
                    self.finish(sequence)
                if not sequence.has_logits:
                    break
            if num_drafted:
                num_rejected = len(sequence.draft)
                self.drafts.append((num_drafted - num_rejected, num_rejected))

    def _fail(self, operation: Operation) -> None:
        match operation:
            case Decode(spans):
                for span in spans:
                    self.runner.spoil(span.slot)
            case Copy(_, target, _):
                self.runner.spoil(target)
        for sequence in self.scheduler.affected(operation):
            self.finish(sequence, keep_cells=False)

    def _track_snapshots(self, operation: Operation) -> None:
        """Asserts that the snapshots together have at most `snapshot_tokens` tokens."""
        match operation:
            case Save(slot, snapshot):
                self.snapshots[snapshot] = len(self.runner.cells[slot])
            case Discard(snapshot):
                del self.snapshots[snapshot]
        assert sum(self.snapshots.values()) <= self.snapshot_tokens


def without_draft(span: Span, sequence: Sequence) -> Span:
    """Returns the prompt tokens of a span; a draft may follow the prompt's last token."""
    prompt = span.tokens[: sequence.num_prompt_tokens - span.start]
    return Span(span.slot, span.start, prompt, num_outputs=min(span.num_outputs, 1))


class RandomDrafter(Drafter):
    """Drafts tokens at random: right ones, wrong ones, and right ones followed by wrong ones."""

    def __init__(self, runner: FakeRunner, rng: random.Random) -> None:
        super().__init__(max_rows=runner.max_outputs)
        self._runner = runner
        self._rng = rng

    def draft(self, sequence: Sequence) -> list[int]:
        completion = self._runner.completion(sequence.prompt_tokens, sequence.params)
        right = completion[len(sequence.completion_tokens) :]
        wrong = self._rng.choices(range(ord("a"), ord("z") + 1), k=self._max_length)
        draft = right[: self._rng.choice([0, 0, 1, 3, 20])] + wrong
        length = min(self._rng.choice([0, 1, 2, 5, 20]), sequence.num_tokens_left - 1)
        return draft[: min(length, self._max_length)]

    def prefers_single_rows(self, _: list[Sequence]) -> bool:
        return self._rng.random() < 0.3


def random_prompt(rng: random.Random, bases: list[list[int]]) -> list[int]:
    """Returns a random part of the beginning of a base prompt, followed by random tokens."""
    base = rng.choice(bases)
    return base[: rng.randrange(len(base) + 1)] + rng.choices(range(256), k=rng.randrange(1, 12))


def random_run(seed: int) -> Driver:
    rng = random.Random(seed)
    length = rng.choice([2, 4, 8])
    tiling = Tiling(
        start=(length - 1) * rng.randint(0, 3),
        length=length,
        chunk_length=length + rng.randint(0, 9),
        long_chunk_length=length + rng.randint(5, 20),
    )
    runner = FakeRunner(
        num_slots=rng.randint(1, 5),
        context_length=CONTEXT_LENGTH,
        completion_length=rng.choice([None, 3, 6]),
        tiling=tiling,
    )
    driver = Driver(
        runner,
        tiling=tiling,
        prefill_budget=length * rng.randint(1, 3),
        snapshot_tokens=rng.choice([0, 16, 40, 200]),
        drafter=RandomDrafter(runner, random.Random(seed)) if seed % 2 else None,
    )
    bases = [rng.choices(range(256), k=60) for _ in range(2)]
    failure = rng if seed % 3 == 0 else None
    for _ in range(rng.randint(5, 30)):
        for _ in range(rng.choice([0, 0, 1, 2, 4])):
            driver.add(random_prompt(rng, bases), max_tokens=rng.randint(1, 24))
        driver.step(failure=failure)
        if driver.scheduler.sequences and rng.random() < 0.2:
            driver.cancel(rng.choice(driver.scheduler.sequences))
            driver.scheduler.check_integrity()
    driver.run()
    return driver


@pytest.fixture(scope="module")
def runs() -> list[Driver]:
    drivers = []
    for seed in range(NUM_RUNS):
        try:
            drivers.append(random_run(seed))
        except Exception as error:
            error.add_note(f"in random_run({seed})")
            raise
    return drivers


def steps(runs: Iterable[Driver]) -> Iterable[tuple[Driver, Step]]:
    return ((driver, step) for driver in runs for step in driver.steps)


def test_random_runs_contain_every_kind_of_operation_and_failure(runs: list[Driver]) -> None:
    kinds = {type(operation) for driver in runs for operation in driver.operations}
    assert kinds == {Decode, Truncate, Copy, Save, Discard}
    sources = [o.source for d in runs for o in d.operations if isinstance(o, Copy)]
    assert {type(source) for source in sources} == {int, Snapshot}
    assert {type(step.failed) for _, step in steps(runs)} == {*CAN_FAIL, type(None)}
    cancelled = [
        sequence
        for driver in runs
        for sequence in driver.arrived
        if sequence.finish_reason is FinishReason.CANCELLED
    ]
    assert {bool(sequence.completion_tokens) for sequence in cancelled} == {True, False}
    assert {bool(sequence.num_computed_tokens) for sequence in cancelled} == {True, False}


def test_every_sequence_finishes(runs: list[Driver]) -> None:
    assert all(sequence.is_finished for driver in runs for sequence in driver.arrived)


def test_every_completion_is_that_of_its_prompt_alone(runs: list[Driver]) -> None:
    ended = (FinishReason.STOP, FinishReason.LENGTH)
    for driver in runs:
        for sequence in driver.arrived:
            expected = driver.runner.completion(sequence.prompt_tokens, sequence.params)
            tokens = sequence.completion_tokens
            assert tokens == expected[: len(tokens)]
            assert sequence.finish_reason not in ended or tokens == expected


def test_drafts_are_accepted_and_rejected_in_part_and_as_a_whole(runs: list[Driver]) -> None:
    drafts = [draft for driver in runs for draft in driver.drafts]
    assert {0, 1, 2, 3} <= {num_accepted for num_accepted, _ in drafts}
    assert {(bool(accepted), bool(rejected)) for accepted, rejected in drafts} == {
        (True, False),
        (False, True),
        (True, True),
    }


def test_a_call_evaluates_one_chunk_or_one_row_per_slot(runs: list[Driver]) -> None:
    for driver, step in steps(runs):
        assert all(len(span.tokens) <= driver.tiling.batch_length for _, span in step.prompts)
        for decode in step.rows:
            assert len(decode.spans) <= driver.runner.num_slots
            is_lone = len(decode.spans) == 1
            assert is_lone or all(len(span.tokens) == 1 for span in decode.spans)


def test_the_slots_of_a_decode_call_are_consecutive(runs: list[Driver]) -> None:
    for driver in runs:
        for operation in driver.operations:
            if isinstance(operation, Decode):
                slots = [span.slot for span in operation.spans]
                assert slots == list(range(slots[0], slots[0] + len(slots)))


def test_every_running_sequence_gets_a_token_every_step(runs: list[Driver]) -> None:
    for _, step in steps(runs):
        outputs = [sequence for decode in step.rows for sequence in decode.outputs]
        if step.failed is None:
            assert len(step.rows) <= 1 or {len(decode.spans) for decode in step.rows} == {1}
            assert set(outputs) >= set(step.running)
            assert len(outputs) == len(set(outputs))


def test_exactly_the_tiled_tokens_are_evaluated_in_tiles(runs: list[Driver]) -> None:
    for driver, step in steps(runs):
        for sequence, span in step.prompts:
            start, end = driver.tiling.start, driver.tiling.end(sequence.num_prompt_tokens)
            is_tiled = len(span.tokens) >= driver.tiling.length
            assert is_tiled == (start <= span.start < end)
            is_last = span.start + len(span.tokens) == sequence.num_prompt_tokens
            assert span.num_outputs == is_last


def test_prompts_in_one_call_have_equally_many_rows(runs: list[Driver]) -> None:
    calls = [
        (driver, operation.spans)
        for driver in runs
        for operation in driver.operations
        if isinstance(operation, Decode)
    ]
    assert any(len(spans) > 1 and len(spans[0].tokens) > 1 for _, spans in calls)
    for driver, spans in calls:
        assert len({len(span.tokens) for span in spans}) == 1
        assert sum(len(span.tokens) for span in spans) <= max(
            driver.tiling.batch_length, driver.runner.num_slots
        )


def test_prompts_are_evaluated_in_order_of_arrival(runs: list[Driver]) -> None:
    for driver in runs:
        if any(step.failed for step in driver.steps):
            continue  # a failed step can end before the last prompt token
        in_steps = [{driver.arrived.index(s) for s, _ in step.prompts} for step in driver.steps]
        order = [index for indexes in in_steps for index in sorted(indexes)]
        assert order == sorted(order)


def test_every_prompt_token_that_is_not_cached_is_evaluated_once(runs: list[Driver]) -> None:
    for driver in runs:
        evaluated: dict[Sequence, list[int]] = {}
        for step in driver.steps:
            for sequence, span in step.prompts:
                evaluated.setdefault(sequence, []).extend(span.tokens)
        for sequence, tokens in evaluated.items():
            rest = sequence.prompt_tokens[sequence.num_cached_tokens :]
            assert tokens == rest[: len(tokens)]
            assert tokens == rest or not sequence.completion_tokens


def test_cached_tokens_are_never_the_whole_prompt(runs: list[Driver]) -> None:
    assert any(sequence.num_cached_tokens for driver in runs for sequence in driver.arrived)
    for driver in runs:
        for sequence in driver.arrived:
            assert sequence.num_cached_tokens < sequence.num_prompt_tokens


def test_a_prompt_that_delays_no_stream_is_evaluated_in_longer_calls() -> None:
    driver = Driver(FakeRunner(num_slots=2, tiling=TILING), prefill_budget=8)
    prompt = driver.add([1] * 30, 1)
    driver.run()
    lengths = [len(span.tokens) for step in driver.steps for _, span in step.prompts]
    assert (prompt.is_finished, lengths) == (True, [3, 3, 12, 11, 1])


def test_a_prompt_is_evaluated_in_short_calls_if_a_long_call_would_take_minutes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = SimpleNamespace(perf_counter=itertools.count(step=60).__next__)
    monkeypatch.setattr(scheduler, "time", clock)
    driver = Driver(FakeRunner(num_slots=2, tiling=TILING), prefill_budget=8)
    driver.add([1] * 30, 1)
    driver.run()
    lengths = [len(span.tokens) for step in driver.steps for _, span in step.prompts]
    assert lengths == [3, 3, *[4] * 4, 7, 1]


def test_a_step_keeps_to_the_prefill_budget() -> None:
    driver = Driver(FakeRunner(num_slots=2, tiling=TILING), prefill_budget=8)
    running, long = driver.add([1], 20), driver.add([2] * 40, 1)
    driver.step()
    while not long.is_finished:
        step = driver.step()
        assert [len(span.tokens) for _, span in step.prompts] in ([4, 4], [5, 1])
        assert running in step.rows[0].outputs


def test_all_slots_are_free_after_the_last_sequence(runs: list[Driver]) -> None:
    for driver in runs:
        assert driver.scheduler.is_idle
        assert driver.scheduler.num_free_slots == driver.runner.num_slots
        assert driver.runner.num_open_samplers == 0


def test_discarded_snapshots_no_longer_exist(runs: list[Driver]) -> None:
    for driver in runs:
        discarded = {o.snapshot for o in driver.operations if isinstance(o, Discard)}
        assert discarded.isdisjoint(driver.snapshots)


def test_without_a_budget_there_are_no_snapshots(runs: list[Driver]) -> None:
    for driver in runs:
        if not driver.snapshot_tokens:
            assert not any(isinstance(o, Save | Discard) for o in driver.operations)


# ── constructed runs ──────────────────────────────────────────────────────────────────────────


def test_a_repeated_prompt_evaluates_only_its_last_token() -> None:
    driver = Driver(FakeRunner(num_slots=2))
    prompt = list(range(8))
    driver.add(prompt)
    driver.run()
    again = driver.add(prompt)
    driver.run()
    assert again.num_cached_tokens == 7
    assert not any(isinstance(operation, Copy) for operation in driver.operations)


def test_a_repeated_long_prompt_evaluates_only_its_last_token() -> None:
    driver = Driver(FakeRunner(num_slots=2, tiling=TILING))
    for length in (18, 20):
        driver.add(list(range(length)))
        driver.run()
        again = driver.add(list(range(length)))
        driver.run()
        assert again.num_cached_tokens == length - 1


def test_a_long_prompt_with_another_last_token_evaluates_its_last_tile_again() -> None:
    driver = Driver(FakeRunner(num_slots=2, tiling=TILING))
    driver.add(list(range(20)))
    driver.run()
    other = driver.add([*range(18), 99, 99])
    driver.run()
    assert other.num_cached_tokens == 19 - TILING.length


def test_the_next_turn_of_a_short_conversation_evaluates_only_new_tokens() -> None:
    driver = Driver(FakeRunner(num_slots=2))
    first = driver.add([1, 2], max_tokens=3)
    driver.run()
    turn = driver.add([1, 2, *first.completion_tokens, 5])
    driver.run()
    assert turn.num_cached_tokens == 4  # the completion's last token has no cell


def test_a_completion_is_evaluated_again_where_the_next_prompt_has_tiles() -> None:
    driver = Driver(FakeRunner(num_slots=2, tiling=TILING))
    first = driver.add(list(range(8)), max_tokens=12)
    driver.run()
    turn = driver.add([*range(8), *first.completion_tokens, 5])
    driver.run()
    assert turn.num_cached_tokens == TILING.start


def test_a_prefix_in_a_running_slot_is_copied() -> None:
    driver = Driver(FakeRunner(num_slots=2))
    first = driver.add([*range(6), 50], max_tokens=20)
    driver.step()
    driver.step()
    second = driver.add([*range(6), 60])
    driver.run()
    assert (first.num_cached_tokens, second.num_cached_tokens) == (0, 6)
    assert [o for o in driver.operations if isinstance(o, Copy)] == [Copy(0, 1, 6)]


def test_the_last_token_of_a_prompt_joins_the_running_rows() -> None:
    driver = Driver(FakeRunner(num_slots=2))
    first = driver.add([1, 2, 3], max_tokens=9)
    driver.step()
    again = driver.add([1, 2, 3], max_tokens=9)
    step = driver.step()
    assert [len(decode.spans) for decode in step.rows] == [2]
    assert step.rows[0].outputs == [first, again]
    driver.run()


def test_prompts_that_arrive_together_share_the_prefix_that_the_first_evaluates() -> None:
    driver = Driver(FakeRunner(num_slots=4), prefill_budget=24)
    sequences = [driver.add([*range(6), n]) for n in range(4)]
    driver.run()
    assert [sequence.num_cached_tokens for sequence in sequences] == [0, 6, 6, 6]


def test_short_remaining_parts_of_about_the_same_length_are_evaluated_in_one_call() -> None:
    driver = Driver(FakeRunner(num_slots=5), tiling=Tiling(), prefill_budget=64)
    base = list(range(20))
    driver.add(base)
    driver.run()
    sequences = [driver.add([*base[:15], n, *range(n)]) for n in (9, 10, 8, 30)]
    driver.run()
    assert [sequence.num_cached_tokens for sequence in sequences] == [14, 15, 13, 15]
    calls = [o.spans for o in driver.operations if isinstance(o, Decode) and len(o.outputs) > 1]
    starts = {span.start: len(span.tokens) for span in calls[0]}
    assert starts == {14: 11, 15: 11, 13: 11}


def test_a_prompt_waits_for_a_prefix_that_another_prompt_is_about_to_evaluate() -> None:
    driver = Driver(FakeRunner(num_slots=2), tiling=Tiling(), prefill_budget=64)
    sequences = [driver.add([*range(20), n, n]) for n in (50, 60)]
    driver.run()
    assert [sequence.num_cached_tokens for sequence in sequences] == [0, 20]


def test_a_prompt_with_tiles_is_evaluated_in_calls_of_its_own() -> None:
    driver = Driver(FakeRunner(num_slots=3, tiling=TILING), prefill_budget=64)
    short = [driver.add([n] * 3) for n in (1, 2)]
    long = driver.add([3] * 12)
    driver.run()
    calls = [o.outputs for o in driver.operations if isinstance(o, Decode)]
    assert calls[0] == short
    assert [long] in calls


def test_an_overwritten_prefix_is_restored_from_its_snapshot() -> None:
    driver = Driver(FakeRunner(num_slots=1))
    for prompt in ([1] * 6, [2] * 6, [1] * 6):
        sequence = driver.add(prompt)
        driver.run()
    assert sequence.num_cached_tokens == 5
    copies = [o for o in driver.operations if isinstance(o, Copy)]
    assert copies == [Copy(Snapshot(1), 0, 5)]


def test_a_prefix_in_the_chosen_slot_is_not_copied_from_a_snapshot() -> None:
    driver = Driver(FakeRunner(num_slots=1))
    for prompt in ([1] * 6, [2] * 6, [1] * 6, [1] * 6):
        driver.add(prompt)
        driver.run()
    # Only the third prompt needed the snapshot. The fourth prompt found its prefix in the slot.
    assert len([o for o in driver.operations if isinstance(o, Copy)]) == 1


def test_a_prefix_that_a_snapshot_holds_is_not_saved_again() -> None:
    driver = Driver(FakeRunner(num_slots=1))
    for prompt in ([1] * 6, [2] * 6, [1] * 6, [2] * 6):
        driver.add(prompt)
        driver.run()
    assert len([o for o in driver.operations if isinstance(o, Save)]) == 2


def test_a_lone_sequence_takes_the_slot_with_the_shortest_other_prefix() -> None:
    driver = Driver(FakeRunner(num_slots=2))
    for prompt in ([1] * 6, [2] * 6, [1] * 6, [2] * 6):
        sequence = driver.add(prompt, max_tokens=3)
        driver.run()
    assert sequence.num_cached_tokens == 5
    assert not any(isinstance(o, Copy | Save) for o in driver.operations)


def test_the_least_recently_used_snapshot_is_discarded_first() -> None:
    driver = Driver(FakeRunner(num_slots=1), snapshot_tokens=24)
    for token in (1, 2, 3, 4, 1, 5, 6):
        driver.add([token] * 5)  # needs 8 cells: a completion's last token has no cell
        driver.run()
    # The snapshot of prompt 4 replaced snapshot 2, and that of prompt 5 replaced snapshot 3.
    # Snapshot 1 is older, but was used later.
    discarded = [o.snapshot for o in driver.operations if isinstance(o, Discard)]
    assert discarded == [Snapshot(2), Snapshot(3)]


def test_a_sequence_behind_a_gap_moves_with_all_its_cells() -> None:
    driver = Driver(FakeRunner(num_slots=3))
    sequences = [driver.add([n] * 3, max_tokens=10) for n in range(3)]
    driver.step()
    driver.cancel(sequences[1])
    step = driver.step()
    assert [span.slot for span in step.rows[0].spans] == [0, 1]
    assert step.rows[0].outputs == [sequences[0], sequences[2]]
    driver.run()


def test_the_cells_of_a_moved_sequence_can_still_be_reused() -> None:
    driver = Driver(FakeRunner(num_slots=3), prefill_budget=24, snapshot_tokens=0)
    sequences = [driver.add([n] * 5, max_tokens=10) for n in range(3)]
    driver.step()
    driver.cancel(sequences[1])
    driver.step()
    again = driver.add([2] * 5)
    driver.run()
    assert again.num_cached_tokens == 4


@pytest.mark.parametrize("num_steps", [0, 1, 4])
def test_a_sequence_can_be_cancelled_in_every_state(num_steps: int) -> None:
    driver = Driver(FakeRunner(num_slots=1), prefill_budget=4)
    sequence = driver.add([1] * 10, max_tokens=9)
    states = [SequenceStatus.WAITING, SequenceStatus.PREFILL, None, None, SequenceStatus.RUNNING]
    for _ in range(num_steps):
        driver.step()
    assert sequence.status is states[num_steps]
    driver.cancel(sequence)
    driver.scheduler.check_integrity()
    driver.run()
    assert sequence.slot is None
    assert driver.scheduler.num_free_slots == 1


def test_the_evaluated_part_of_a_cancelled_prompt_is_reused() -> None:
    driver = Driver(FakeRunner(num_slots=1), prefill_budget=4)
    sequence = driver.add([1] * 20)
    driver.step()
    driver.step()
    driver.cancel(sequence)
    again = driver.add([1] * 20)
    driver.run()
    assert again.num_cached_tokens == 19  # all but the last token


def test_a_failed_call_affects_only_the_sequences_in_it() -> None:
    driver = Driver(FakeRunner(num_slots=3), prefill_budget=4)
    running = driver.add([1], max_tokens=9)
    driver.step()
    prefilling = driver.add([2] * 20)
    waiting = driver.add([3])
    driver.step()
    rows = driver.steps[-1].rows[0]
    assert driver.scheduler.affected(rows) == [running]
    span = Span(1, 4, [2] * 4, num_outputs=0)
    assert driver.scheduler.affected(Decode([span], outputs=[])) == [prefilling]
    assert driver.scheduler.affected(Truncate(2, 0)) == [running, prefilling]
    assert waiting in driver.scheduler.sequences
