"""Decides which tokens the next calls evaluate, and in which slots. It has no model and no clock.

A step is a sequence of operations. The caller carries out each operation before it requests the
next one, so the scheduler's state is right even if an operation fails.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Generator, Iterator, Set
from dataclasses import dataclass

from workers_ai_emulator.engine.prefixes import Owner, PrefixIndex, Snapshot
from workers_ai_emulator.engine.sequence import Sequence, SequenceStatus
from workers_ai_emulator.engine.slots import SlotPool
from workers_ai_emulator.engine.tiling import Tiling
from workers_ai_emulator.engine.types import Span

# A slot is saved only if at least this share of its tokens has cells in no other place.
_MIN_SNAPSHOT_SHARE = 0.25
_ROWS_PER_CALL = 6  # the fixed cost of a prefill call, in rows [measured on two cores]


@dataclass(frozen=True, slots=True)
class Decode:
    """Evaluate the spans in one call. `outputs`: the sequences of the spans that need logits."""

    spans: list[Span]
    outputs: list[Sequence]


@dataclass(frozen=True, slots=True)
class Truncate:
    """Remove all cells of the slot except the first `num_tokens`."""

    slot: int
    num_tokens: int


@dataclass(frozen=True, slots=True)
class Copy:
    """Replace the cells of slot `target` with the first `num_tokens` cells of `source`."""

    source: Owner
    target: int
    num_tokens: int


@dataclass(frozen=True, slots=True)
class Save:
    """Copy the cells of the slot to a new snapshot."""

    slot: int
    snapshot: Snapshot


@dataclass(frozen=True, slots=True)
class Discard:
    """Delete the snapshot."""

    snapshot: Snapshot


Operation = Decode | Truncate | Copy | Save | Discard


class Scheduler:
    """Schedules sequences first come, first served; prefill comes before decode.

    Prompts are evaluated one at a time, or together if their remaining parts are short and about
    equally long. `prefill_budget`: prompt tokens that one step evaluates. `snapshot_tokens`: the
    most tokens in all snapshots together. `min_snapshot_tokens`: a slot with fewer unique tokens
    is overwritten without a snapshot.
    """

    def __init__(
        self,
        *,
        num_slots: int,
        tiling: Tiling,
        prefill_budget: int = 128,
        snapshot_tokens: int = 8192,
        min_snapshot_tokens: int = 16,
    ) -> None:
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.prefilling: list[Sequence] = []  # in order of arrival
        self._slots = SlotPool(num_slots)
        self._tiling = tiling
        self._prefixes = PrefixIndex(tiling)
        self._snapshots: OrderedDict[Snapshot, int] = OrderedDict()  # least recently used first
        self._num_snapshots_made = 0
        self._prefill_budget = prefill_budget
        self._snapshot_tokens = snapshot_tokens
        self._min_snapshot_tokens = min_snapshot_tokens

    @property
    def is_idle(self) -> bool:
        return not (self.waiting or self.running or self.prefilling)

    @property
    def num_free_slots(self) -> int:
        return len(self._slots.free)

    @property
    def sequences(self) -> list[Sequence]:
        """All sequences that are not finished."""
        return [*self._with_slot, *self.waiting]

    @property
    def _with_slot(self) -> list[Sequence]:
        return [*self.running, *self.prefilling]

    def add(self, sequence: Sequence) -> None:
        """Appends a new sequence to the queue."""
        self.waiting.append(sequence)

    def finish(self, sequence: Sequence, *, keep_cells: bool = True) -> None:
        """Removes the sequence, in whatever state it is, and frees its slot.

        Without `keep_cells`, later prompts do not reuse the slot's cells.
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
        """Yields the operations of one step.

        They evaluate prompt tokens up to the budget, then one token of every running sequence.
        """
        budget = self._prefill_budget
        while budget > 0 and (self.prefilling or self._can_admit):
            if not self.prefilling:
                yield from self._admit_next(budget)
                yield from self._admit_to_same_call(budget)
            budget -= yield from self._prefill()
        yield from self._decode_running()

    def affected(self, operation: Operation) -> list[Sequence]:
        """Returns the sequences that must end if the operation fails."""
        slots = (
            {span.slot for span in operation.spans}
            if isinstance(operation, Decode)
            else {s.slot for s in self._with_slot}
        )
        return [s for s in self._with_slot if s.slot in slots]

    def check_integrity(self) -> None:
        """Asserts that every slot is free or belongs to one sequence, and that states are right."""
        self._slots.check_integrity(_slot(s) for s in self._with_slot)
        assert all(s.status is SequenceStatus.RUNNING for s in self.running)
        assert all(s.status is SequenceStatus.WAITING and s.slot is None for s in self.waiting)
        assert sum(self._snapshots.values()) <= self._snapshot_tokens

    def _decode_running(self) -> Iterator[Operation]:
        yield from self._close_gaps()
        rows = sorted(self.running, key=_slot)
        if rows:
            spans = [_next_row(s) for s in rows]
            for sequence in rows:
                sequence.num_computed_tokens += 1
            yield Decode(spans, outputs=rows)

    def _prefill(self) -> Generator[Operation, None, int]:
        """Evaluates the next chunk of the admitted prompts in one call; returns its rows.

        If only the last token of a prompt remains, its sequence starts to run instead, and the
        token is evaluated together with the running sequences.
        """
        if _num_remaining(self.prefilling[0]) == 1:
            self._start_running(self.prefilling[0])
            return 1
        sequences = sorted(self.prefilling, key=_slot)
        spans = [self._next_chunk(sequence) for sequence in sequences]
        outputs = [sequence for sequence in sequences if not _num_remaining(sequence)]
        for sequence in outputs:
            self._start_running(sequence)
        yield Decode(spans, outputs)
        return sum(len(span.tokens) for span in spans)

    def _next_chunk(self, sequence: Sequence) -> Span:
        """Returns the next span of a prompt, and counts its tokens as computed."""
        start = sequence.num_computed_tokens
        end = start + self._tiling.next_length(start, sequence.num_prompt_tokens)
        sequence.num_computed_tokens = end
        tokens = sequence.prompt_tokens[start:end]
        return Span(_slot(sequence), start, tokens, needs_logits=not _num_remaining(sequence))

    def _start_running(self, sequence: Sequence) -> None:
        self.prefilling.remove(sequence)
        self.running.append(sequence)
        sequence.status = SequenceStatus.RUNNING
        self._index_slot(_slot(sequence), sequence)

    def _index_slot(self, slot: int, sequence: Sequence, *, keep_cells: bool = True) -> None:
        """Records in the prefix index that the slot holds the sequence's evaluated tokens."""
        tokens = sequence.evaluated_tokens if keep_cells else []
        self._prefixes.set(slot, tokens, sequence.num_prompt_tokens)

    @property
    def _can_admit(self) -> bool:
        return bool(self.waiting and self._slots.free)

    @property
    def _free_adjacent_slots(self) -> Set[int]:
        """The free slots next to a slot whose prompt is being evaluated."""
        slots = [_slot(sequence) for sequence in self.prefilling]
        return self._slots.free & {beside for slot in slots for beside in (slot - 1, slot + 1)}

    def _admit_to_same_call(self, budget: int) -> Iterator[Operation]:
        """Admits the next sequences if one call can evaluate their prompts with the admitted ones.

        llama.cpp evaluates several sequences in one pass over the weights only if their slots are
        consecutive and all have equally many rows. A prompt with fewer remaining tokens therefore
        evaluates some of its cached tokens again.
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
        """Returns whether the prompt costs less in a call with the admitted ones than after it."""
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
        """Gives the next waiting sequence a slot and the longest cached prefix of its prompt.

        If the prompt needs more than this step, the gaps between running slots are closed first,
        so that the new slot does not separate them.
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
        """Returns the free slot for a sequence; `owners`: the cached prefixes of its prompt.

        If other sequences have slots, it is the lowest free slot, or one beside the prompts that
        the same call evaluates: rows of one call need consecutive slots. Otherwise it is the slot
        with the longest prefix.
        """
        if self._with_slot:
            return min(self._free_adjacent_slots or self._slots.free)
        return max(
            self._slots.free,
            key=lambda slot: (owners.get(slot, 0), -self._prefixes.length(slot), -slot),
        )

    def _close_gaps(self) -> Iterator[Operation]:
        """Moves running sequences to consecutive slots.

        llama.cpp evaluates only consecutive slots in one pass over the weights.
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
        """Prepares a slot for overwriting all its cells except the first `num_kept`.

        Saves the slot first if enough of the lost tokens have cells in no other place. The
        snapshot `needed` is not discarded for that.
        """
        num_held = self._prefixes.length(slot)
        num_lost = min(self._prefixes.num_unique(slot), num_held - num_kept)
        if num_lost >= max(self._min_snapshot_tokens, num_held * _MIN_SNAPSHOT_SHARE):
            yield from self._save(slot, num_held, needed)
        self._prefixes.remove(slot)

    def _save(self, slot: int, num_tokens: int, needed: Owner | None) -> Iterator[Operation]:
        """Saves the slot; discards the least recently used snapshots if the budget requires it."""
        reserved = self._snapshots[needed] if isinstance(needed, Snapshot) else 0
        if num_tokens > self._snapshot_tokens - reserved:
            return
        while sum(self._snapshots.values()) + num_tokens > self._snapshot_tokens:
            oldest = next(iter(self._snapshots))  # never `needed`, which was used last
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
    """Returns how many prompt tokens are not evaluated yet."""
    return sequence.num_prompt_tokens - sequence.num_computed_tokens


def _next_row(sequence: Sequence) -> Span:
    """Returns the span of the token sampled last, or of the prompt's last token."""
    tokens = sequence.completion_tokens[-1:] or sequence.prompt_tokens[-1:]
    return Span(_slot(sequence), sequence.num_computed_tokens, tokens, needs_logits=True)
