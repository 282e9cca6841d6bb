"""Decides which tokens the next decode calls evaluate, and in which slots.

The scheduler yields operations, such as decode calls and copies of KV cells. The worker thread
carries out each operation before it requests the next one. If an operation fails, the thread
requests no more operations of the same step. So the scheduler's state stays consistent with the KV
cache.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict, deque
from collections.abc import Generator, Iterator, Set
from dataclasses import dataclass

from workers_ai_emulator.engine.drafts import Drafter
from workers_ai_emulator.engine.prefixes import Owner, PrefixIndex, Snapshot
from workers_ai_emulator.engine.sequence import Sequence, SequenceStatus
from workers_ai_emulator.engine.slots import SlotPool
from workers_ai_emulator.engine.tiling import Tiling
from workers_ai_emulator.engine.types import Span

# The KV cells of a slot are saved before the slot is overwritten, if at least this share of the
# cells would be lost. A cell would be lost if no other slot or snapshot holds it.
_MIN_SNAPSHOT_SHARE = 0.25
# The fixed cost of a prefill call: in addition to the time for its rows (tokens), each call takes
# as long as evaluating this many rows [measured on two cores].
_ROWS_PER_CALL = 6
_MAX_CALL_S = 20.0  # long prefill calls are made only if they are expected to take less time


@dataclass(frozen=True, slots=True)
class Decode:
    """An operation: evaluate all spans in one decode call.

    A span contains consecutive tokens of one slot. `outputs`: the sequences for which the call
    outputs logits, in the order of their spans.
    """

    spans: list[Span]
    outputs: list[Sequence]

    @property
    def rows(self) -> Iterator[tuple[Sequence, range]]:
        """Yields each sequence of `outputs`, and the indexes of its logits in the call's logits."""
        end = 0
        with_outputs = [span for span in self.spans if span.num_outputs]
        for sequence, span in zip(self.outputs, with_outputs, strict=True):
            start, end = end, end + span.num_outputs
            yield sequence, range(start, end)


@dataclass(frozen=True, slots=True)
class Truncate:
    """An operation: remove all KV cells of a slot except the first `num_tokens`."""

    slot: int
    num_tokens: int


@dataclass(frozen=True, slots=True)
class Copy:
    """An operation: replace the KV cells of a slot with cells of another slot or of a snapshot.

    `source`: the slot or snapshot whose first `num_tokens` cells are copied to slot `target`.
    """

    source: Owner
    target: int
    num_tokens: int


@dataclass(frozen=True, slots=True)
class Save:
    """An operation: copy all KV cells of a slot to a new snapshot."""

    slot: int
    snapshot: Snapshot


@dataclass(frozen=True, slots=True)
class Discard:
    """An operation: delete a snapshot (a saved copy of a slot's KV cells)."""

    snapshot: Snapshot


Operation = Decode | Truncate | Copy | Save | Discard


class Scheduler:
    """Schedules requests (sequences) in order of arrival, in steps.

    Each step evaluates prompt tokens, and then generates one token for each running sequence. A
    sequence that runs alone may generate several tokens in a step (see `drafter`).
    Usually, prompts are evaluated one after the other. But one decode call evaluates several
    prompts together if their unevaluated parts are short and about equally long.

    `tiling`: how prompts are split into decode calls.
    `prefill_budget`: once a step has evaluated this many prompt tokens, it begins no more
    prefill calls.
    `snapshot_tokens`: the maximum number of tokens in all snapshots (saved copies of KV cells).
    `min_snapshot_tokens`: the KV cells of a slot are saved before the slot is overwritten, if at
    least this many cells would be lost because no other slot or snapshot holds them. `drafter`:
    guesses the next tokens of a sequence that runs alone, and decides whether several sequences
    share a decode call or get one call each. If it is None, no tokens are guessed, and all running
    sequences share one call.
    """

    def __init__(
        self,
        *,
        num_slots: int,
        tiling: Tiling,
        prefill_budget: int = 128,
        snapshot_tokens: int = 8192,
        min_snapshot_tokens: int = 16,
        drafter: Drafter | None = None,
    ) -> None:
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.prefilling: list[Sequence] = []  # the sequences in prefill, in order of arrival
        self._slots = SlotPool(num_slots)
        self._tiling = tiling
        self._prefixes = PrefixIndex(tiling)
        # The number of tokens in each snapshot; the least recently used snapshot comes first.
        self._snapshots: OrderedDict[Snapshot, int] = OrderedDict()
        self._num_snapshots_made = 0
        self._prefill_budget = prefill_budget
        self._snapshot_tokens = snapshot_tokens
        self._min_snapshot_tokens = min_snapshot_tokens
        self._drafter = drafter
        self._prefill_row_s = math.inf  # the time per row of the last prefill call

    @property
    def is_idle(self) -> bool:
        return not (self.waiting or self.running or self.prefilling)

    @property
    def num_free_slots(self) -> int:
        return len(self._slots.free)

    @property
    def sequences(self) -> list[Sequence]:
        """All waiting, prefilling and running sequences."""
        return [*self._with_slot, *self.waiting]

    @property
    def _with_slot(self) -> list[Sequence]:
        return [*self.running, *self.prefilling]

    def add(self, sequence: Sequence) -> None:
        """Appends a new sequence to the queue of waiting sequences."""
        self.waiting.append(sequence)

    def finish(self, sequence: Sequence, *, keep_cells: bool = True) -> None:
        """Removes a sequence from the scheduler, whatever its status, and frees its slot.

        `keep_cells`: whether later prompts may reuse the KV cells in this slot.
        """
        if sequence.status is SequenceStatus.WAITING:
            self.waiting.remove(sequence)
        elif sequence.status is SequenceStatus.PREFILL:
            self.prefilling.remove(sequence)
        elif sequence.status is SequenceStatus.RUNNING:
            self.running.remove(sequence)
        sequence.status = SequenceStatus.FINISHED
        if sequence.slot is not None:
            self._slots.release(sequence.slot)
            self._index_slot(sequence.slot, sequence, keep_cells=keep_cells)
            sequence.slot = None

    def step(self) -> Iterator[Operation]:
        """Yields the operations of one step, such as decode calls. The caller carries them out.

        The operations evaluate about `prefill_budget` prompt tokens, and then the last token of
        every running sequence. If only one sequence runs, they also evaluate its draft.
        """
        budget = self._prefill_budget
        while budget > 0 and (self.prefilling or self._can_admit):
            if not self.prefilling:
                yield from self._admit_next(budget)
                yield from self._admit_to_same_call(budget)
            budget -= yield from self._prefill()
        yield from self._decode_running()

    @property
    def needs_calibration(self) -> bool:
        return self._drafter is not None and bool(self._drafter.costs.pending)

    def calibrate(self) -> Iterator[Operation]:
        """Yields a decode call whose duration the drafter needs. The scheduler must be idle.

        The call evaluates meaningless tokens in the free slot with the fewest reusable KV cells,
        which are lost.
        """
        assert self._drafter is not None
        num_rows = self._drafter.costs.pending.pop()
        slot = min(self._slots.free, key=self._prefixes.length)
        self._prefixes.remove(slot)
        yield Truncate(slot, 0)
        start_s = time.perf_counter()
        yield Decode([Span(slot, 0, [0] * num_rows, num_outputs=num_rows)], outputs=[])
        self._drafter.costs.calibrate(num_rows, time.perf_counter() - start_s)
        yield Truncate(slot, 0)

    def affected(self, operation: Operation) -> list[Sequence]:
        """Returns the sequences that must end if the operation fails.

        For a decode call, returns the sequences whose tokens the call evaluates. For any other
        operation, returns all sequences that have a slot.
        """
        slots = (
            {span.slot for span in operation.spans}
            if isinstance(operation, Decode)
            else {s.slot for s in self._with_slot}
        )
        return [s for s in self._with_slot if s.slot in slots]

    def check_integrity(self) -> None:
        """Asserts that the scheduler's state is consistent.

        For example, every slot must be free or belong to exactly one sequence.
        """
        self._slots.check_integrity(_slot(s) for s in self._with_slot)
        assert all(s.status is SequenceStatus.RUNNING for s in self.running)
        assert all(s.status is SequenceStatus.WAITING and s.slot is None for s in self.waiting)
        assert sum(self._snapshots.values()) <= self._snapshot_tokens

    def _decode_running(self) -> Iterator[Operation]:
        yield from self._close_gaps()
        rows = sorted(self.running, key=_slot)
        if len(rows) == 1 and self._drafter is not None:
            yield from self._decode_with_draft(rows[0], self._drafter)
        elif rows and self._drafter is not None and self._drafter.prefers_single_rows(rows):
            for sequence in rows:
                yield from self._decode_alone(sequence, self._drafter)
        elif rows:
            spans = [_next_row(s) for s in rows]
            for sequence in rows:
                sequence.num_computed_tokens += 1
            yield Decode(spans, outputs=rows)

    def _decode_with_draft(self, sequence: Sequence, drafter: Drafter) -> Iterator[Operation]:
        """Yields a decode call for the next token of a sequence and for a draft of later tokens.

        Sampling removes the accepted tokens from `sequence.draft`. The KV cells of the other draft
        tokens are removed from the slot.
        """
        most_rows = self._tiling.length - 1  # more rows would be computed in tiles
        sequence.draft = drafter.draft(sequence)[: most_rows - 1]
        slot, num_tokens = _slot(sequence), sequence.num_tokens
        yield from self._decode_alone(sequence, drafter)
        drafter.learn(sequence.tokens_from(num_tokens))
        if sequence.draft:
            sequence.draft = []
            yield Truncate(slot, sequence.num_computed_tokens)

    def _decode_alone(self, sequence: Sequence, drafter: Drafter) -> Iterator[Operation]:
        """Yields a decode call for the next token of a sequence and its draft, and measures it."""
        span = _next_row(sequence)
        sequence.num_computed_tokens += 1
        start_s = time.perf_counter()
        yield Decode([span], outputs=[sequence])
        drafter.costs.add(len(span.tokens), span.start, time.perf_counter() - start_s)

    def _prefill(self) -> Generator[Operation, None, int]:
        """Yields one decode call for the next tokens of all prompts in prefill.

        Yields nothing if one prompt is in prefill and only its last token is left: the prompt's
        sequence becomes a running sequence, and `_decode_running` evaluates the token. If several
        prompts are in prefill, each has at least two tokens left.

        Returns how many prompt tokens the decode call evaluates; 1 if it yields nothing.
        """
        if _num_remaining(self.prefilling[0]) == 1:
            self._start_running(self.prefilling[0])
            return 1
        sequences = sorted(self.prefilling, key=_slot)
        spans = [self._next_chunk(sequence) for sequence in sequences]
        outputs = [sequence for sequence in sequences if not _num_remaining(sequence)]
        for sequence in outputs:
            self._start_running(sequence)
        num_rows, start_s = sum(len(span.tokens) for span in spans), time.perf_counter()
        yield Decode(spans, outputs)
        self._prefill_row_s = (time.perf_counter() - start_s) / num_rows
        return num_rows

    @property
    def _may_be_long(self) -> bool:
        """Whether the next prefill call may have `long_chunk_length` tokens.

        True if no sequence is running, and if the call is expected to take less than 20 seconds,
        judged by the last prefill call. After longer calls, the watchdog could report that the
        engine is stuck. False before the first prefill call.
        """
        duration_s = self._prefill_row_s * self._tiling.long_chunk_length
        return not self.running and duration_s < _MAX_CALL_S

    def _next_chunk(self, sequence: Sequence) -> Span:
        """Returns the prompt tokens of a sequence that the next decode call evaluates, as a span.

        Also adds the number of these tokens to the sequence's `num_computed_tokens`.
        """
        start = sequence.num_computed_tokens
        end = start + self._tiling.next_length(
            start, sequence.num_prompt_tokens, may_be_long=self._may_be_long
        )
        sequence.num_computed_tokens = end
        tokens = sequence.prompt_tokens[start:end]
        return Span(_slot(sequence), start, tokens, num_outputs=int(not _num_remaining(sequence)))

    def _start_running(self, sequence: Sequence) -> None:
        self.prefilling.remove(sequence)
        self.running.append(sequence)
        sequence.status = SequenceStatus.RUNNING
        self._index_slot(_slot(sequence), sequence)

    def _index_slot(self, slot: int, sequence: Sequence, *, keep_cells: bool = True) -> None:
        """Records which tokens have KV cells in the slot, so that later prompts reuse these cells.

        If `keep_cells` is False, records that the slot has no reusable cells.
        """
        tokens = sequence.evaluated_tokens if keep_cells else []
        self._prefixes.set(slot, tokens, sequence.num_prompt_tokens)

    @property
    def _can_admit(self) -> bool:
        return bool(self.waiting and self._slots.free)

    @property
    def _free_adjacent_slots(self) -> Set[int]:
        """The free slots directly before or after a slot whose prompt is in prefill."""
        slots = [_slot(sequence) for sequence in self.prefilling]
        return self._slots.free & {beside for slot in slots for beside in (slot - 1, slot + 1)}

    def _admit_to_same_call(self, budget: int) -> Iterator[Operation]:
        """Admits waiting sequences whose prompts can share the decode call of a prompt in prefill.

        To evaluate several sequences in one pass over the weights, llama.cpp needs consecutive
        slots, and the same number of tokens of each sequence in the call. To make these numbers
        equal, some cached tokens of prompts with fewer unevaluated tokens are evaluated again.

        `budget`: the number of prompt tokens that this step may still evaluate.
        """
        while self.waiting and self._fits_same_call(self.waiting[0], budget):
            yield from self._admit_next(budget)
        if len(self.prefilling) > 1:
            length = max(map(_num_remaining, self.prefilling))
            for sequence in self.prefilling:
                num_kept = sequence.num_prompt_tokens - length
                sequence.num_cached_tokens = sequence.num_computed_tokens = num_kept
                yield Truncate(_slot(sequence), num_kept)

    def _fits_same_call(self, sequence: Sequence, budget: int) -> bool:
        """Returns whether a waiting prompt should share the decode call of the prompts in prefill.

        Returns True if a shared call is possible and takes less time than an additional call for
        the waiting prompt. `budget`: the number of prompt tokens that this step may still evaluate.
        """
        num_cached = max(self._prefixes.match(sequence.prompt_tokens).values(), default=0)
        remaining = [
            *map(_num_remaining, self.prefilling),
            sequence.num_prompt_tokens - num_cached,
        ]
        length, num_rows = max(remaining), max(remaining) * len(remaining)
        is_untiled = all(
            self._tiling.fits_untiled_call(length, s.num_prompt_tokens)
            for s in [*self.prefilling, sequence]
        )
        beginning = slice(num_cached + _ROWS_PER_CALL)
        is_soon_cached = any(
            s.prompt_tokens[beginning] == sequence.prompt_tokens[beginning] for s in self.prefilling
        )
        return (
            bool(self._free_adjacent_slots)
            and min(remaining) > 1
            and num_rows <= min(budget, self._tiling.batch_length)
            and num_rows - sum(remaining) <= _ROWS_PER_CALL
            and is_untiled
            and not is_soon_cached
        )

    def _admit_next(self, budget: int) -> Iterator[Operation]:
        """Gives the next waiting sequence a slot and the KV cells of its longest cached prefix.

        `budget`: the number of prompt tokens that this step may still evaluate. If the prompt has
        more unevaluated tokens than `budget`, its prefill takes several steps. In this case, the
        running sequences are moved to consecutive slots before the new sequence gets a slot, so
        that the new sequence's slot does not lie between them.
        """
        sequence = self.waiting[0]
        owners = self._prefixes.match(sequence.prompt_tokens)
        if sequence.num_prompt_tokens - max(owners.values(), default=0) > budget:
            yield from self._close_gaps()
            owners = self._prefixes.match(sequence.prompt_tokens)
        slot = self._choose_slot(owners)
        source: Owner = max(owners, key=lambda o: (owners[o], o == slot), default=slot)
        num_cached = owners.get(source, 0)
        self._slots.take(slot)
        self.prefilling.append(self.waiting.popleft())
        sequence.slot = slot
        sequence.status = SequenceStatus.PREFILL
        sequence.num_cached_tokens = sequence.num_computed_tokens = num_cached
        if isinstance(source, Snapshot):
            self._snapshots.move_to_end(source)
        yield from self._vacate(slot, num_kept=num_cached if source == slot else 0, needed=source)
        yield Truncate(slot, num_cached) if source == slot else Copy(source, slot, num_cached)

    def _choose_slot(self, owners: dict[Owner, int]) -> int:
        """Returns a free slot for a waiting sequence.

        If all slots are free, returns the slot with the longest cached prefix of the prompt.
        Otherwise, returns a free slot next to a slot whose prompt is in prefill, because sequences
        that share a decode call need consecutive slots. If no adjacent slot is free, returns the
        free slot with the lowest number.

        `owners`: the length of the prompt's cached prefix in each slot and snapshot.
        """
        if self._with_slot:
            return min(self._free_adjacent_slots or self._slots.free)
        return max(
            self._slots.free,
            key=lambda slot: (owners.get(slot, 0), -self._prefixes.length(slot), -slot),
        )

    def _close_gaps(self) -> Iterator[Operation]:
        """Moves the running sequences to consecutive slots.

        llama.cpp can then evaluate all running sequences in one pass over the weights.
        """
        rows = sorted(self.running, key=_slot)
        while rows and _slot(rows[-1]) - _slot(rows[0]) >= len(rows):
            sequence = rows[-1]
            source = _slot(sequence)
            target = min(slot for slot in self._slots.free if slot > _slot(rows[0]))
            yield from self._vacate(target)
            self._slots.take(target)
            self._slots.release(source)
            sequence.slot = target
            self._index_slot(target, sequence)
            yield Copy(source, target, sequence.num_computed_tokens)
            self._index_slot(source, sequence)
            rows.sort(key=_slot)

    def _vacate(
        self, slot: int, *, num_kept: int = 0, needed: Owner | None = None
    ) -> Iterator[Operation]:
        """Prepares a slot whose KV cells will be overwritten, except the first `num_kept` cells.

        First saves all cells of the slot to a snapshot if many cells would otherwise be lost. A
        cell would be lost if no other slot or snapshot holds it. `needed`: if a new prompt gets the
        slot, the slot or snapshot from which the prompt takes its cached cells; otherwise None.
        Saving may delete old snapshots, but not `needed`.
        """
        num_held = self._prefixes.length(slot)
        num_lost = min(self._prefixes.num_unique(slot), num_held - num_kept)
        if num_lost >= max(self._min_snapshot_tokens, num_held * _MIN_SNAPSHOT_SHARE):
            yield from self._save(slot, num_held, needed)
        self._prefixes.remove(slot)

    def _save(self, slot: int, num_tokens: int, needed: Owner | None) -> Iterator[Operation]:
        """Saves a slot's KV cells to a new snapshot, and deletes old snapshots to make room.

        All snapshots together may have at most `snapshot_tokens` tokens. The least recently used
        snapshots are deleted first. If `needed` is a snapshot, it is not deleted. If the slot's
        cells would not fit even after all other snapshots are deleted, saves and deletes nothing.
        `num_tokens`: the number of the slot's KV cells.
        """
        reserved = self._snapshots[needed] if isinstance(needed, Snapshot) else 0
        if num_tokens > self._snapshot_tokens - reserved:
            return
        while sum(self._snapshots.values()) + num_tokens > self._snapshot_tokens:
            # If `needed` is a snapshot, it is at the end of the dict, and the loop ends before it.
            oldest = next(iter(self._snapshots))
            del self._snapshots[oldest]
            self._prefixes.remove(oldest)
            yield Discard(oldest)
        self._num_snapshots_made += 1
        snapshot = Snapshot(self._num_snapshots_made)
        yield Save(slot, snapshot)
        self._snapshots[snapshot] = num_tokens
        self._prefixes.copy(slot, snapshot)


def _slot(sequence: Sequence) -> int:
    assert sequence.slot is not None
    return sequence.slot


def _num_remaining(sequence: Sequence) -> int:
    """Returns how many tokens of the sequence's prompt have not been evaluated yet."""
    return sequence.num_prompt_tokens - sequence.num_computed_tokens


def _next_row(sequence: Sequence) -> Span:
    """Returns the next token of a running sequence that a decode call must evaluate, as a span.

    It is the last sampled token, or the prompt's last token if no token has been sampled. The span
    also contains the sequence's draft.
    """
    last = sequence.completion_tokens[-1:] or sequence.prompt_tokens[-1:]
    tokens = [*last, *sequence.draft]
    return Span(_slot(sequence), sequence.num_computed_tokens, tokens, num_outputs=len(tokens))
