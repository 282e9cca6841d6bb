"""The scheduler decides which tokens are evaluated next, and where. It knows numbers, not models.

A step is a stream of operations. Each is carried out before the next is asked for, so that what is
decided stands on what has happened, and a failed operation leaves the books right.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Generator, Iterator, Set
from dataclasses import dataclass

from workers_ai_emulator.engine.prefixes import Holder, PrefixIndex, Snapshot
from workers_ai_emulator.engine.sequence import Sequence, SequenceStatus
from workers_ai_emulator.engine.slots import SlotPool
from workers_ai_emulator.engine.tiling import Tiling
from workers_ai_emulator.engine.types import Span

_MIN_SNAPSHOT_SHARE = 0.25  # of a slot's tokens; all of them are saved, whatever is shared
_ROWS_PER_CALL = 6  # a prompt's call costs as much before its first row [measured on two cores]


@dataclass(frozen=True, slots=True)
class Decode:
    """Evaluate the spans in one call; their rows with logits belong to `outputs`, in order."""

    spans: list[Span]
    outputs: list[Sequence]


@dataclass(frozen=True, slots=True)
class Truncate:
    """Forget the cells of the slot but the first `num_tokens`."""

    slot: int
    num_tokens: int


@dataclass(frozen=True, slots=True)
class Copy:
    """Give slot `target` the first `num_tokens` cells of `source`."""

    source: Holder
    target: int
    num_tokens: int


@dataclass(frozen=True, slots=True)
class Save:
    """Keep the cells of the slot as a snapshot."""

    slot: int
    snapshot: Snapshot


@dataclass(frozen=True, slots=True)
class Discard:
    """Forget the snapshot."""

    snapshot: Snapshot


Operation = Decode | Truncate | Copy | Save | Discard


class Scheduler:
    """First come, first served: prompts are evaluated before all running sequences.

    One at a time, or several in a call if their rests are short and about as long.
    `prefill_budget`: prompt tokens after which the running sequences get their next token;
    `snapshot_tokens`: most tokens kept as snapshots; `min_snapshot_tokens`: where fewer would be
    lost, or a small share of a slot, they are evaluated again instead.
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
        """All that are not finished."""
        return [*self._holding, *self.waiting]

    @property
    def _holding(self) -> list[Sequence]:
        return [*self.running, *self.prefilling]

    def add(self, sequence: Sequence) -> None:
        self.waiting.append(sequence)

    def finish(self, sequence: Sequence, *, keep_cells: bool = True) -> None:
        """Take the sequence out, in whatever state it is, and free its slot."""
        if sequence.status is SequenceStatus.WAITING:
            self.waiting.remove(sequence)
        elif sequence.status is SequenceStatus.PREFILL:
            self.prefilling.remove(sequence)
        elif sequence.status is SequenceStatus.RUNNING:
            self.running.remove(sequence)
        sequence.status = SequenceStatus.FINISHED
        if sequence.slot is not None:
            self._slots.release(sequence.slot)
            self._hold(sequence.slot, sequence, keep_cells=keep_cells)
            sequence.slot = None

    def step(self) -> Iterator[Operation]:
        """Prompt tokens up to the budget, then one token of every running sequence."""
        budget = self._prefill_budget
        while budget > 0 and (self.prefilling or self._can_admit):
            if not self.prefilling:
                yield from self._admit_next(budget)
                yield from self._admit_companions(budget)
            budget -= yield from self._prefill()
        yield from self._decode_running()

    def affected(self, operation: Operation) -> list[Sequence]:
        """The sequences that cannot go on when the operation fails."""
        slots = (
            {span.slot for span in operation.spans}
            if isinstance(operation, Decode)
            else {s.slot for s in self._holding}
        )
        return [s for s in self._holding if s.slot in slots]

    def check_integrity(self) -> None:
        """The books balance: every slot is free or taken by exactly one sequence."""
        self._slots.check_integrity(_slot(s) for s in self._holding)
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
        """Evaluate the next chunk of the prompts in a call of their own; returns its rows.

        A prompt's last token alone is a row like those of the running sequences, and joins them.
        """
        if _num_left(self.prefilling[0]) == 1:
            self._start_running(self.prefilling[0])
            return 1
        sequences = sorted(self.prefilling, key=_slot)
        spans = [self._next_chunk(sequence) for sequence in sequences]
        outputs = [sequence for sequence in sequences if not _num_left(sequence)]
        for sequence in outputs:
            self._start_running(sequence)
        yield Decode(spans, outputs)
        return sum(len(span.tokens) for span in spans)

    def _next_chunk(self, sequence: Sequence) -> Span:
        """The next rows of a prompt, which count as computed."""
        start = sequence.num_computed_tokens
        end = start + self._tiling.next_length(start, sequence.num_prompt_tokens)
        sequence.num_computed_tokens = end
        tokens = sequence.prompt_tokens[start:end]
        return Span(_slot(sequence), start, tokens, wants_logits=not _num_left(sequence))

    def _start_running(self, sequence: Sequence) -> None:
        self.prefilling.remove(sequence)
        self.running.append(sequence)
        sequence.status = SequenceStatus.RUNNING
        self._hold(_slot(sequence), sequence)

    def _hold(self, slot: int, sequence: Sequence, *, keep_cells: bool = True) -> None:
        """The slot holds what the sequence has evaluated."""
        tokens = sequence.evaluated_tokens if keep_cells else []
        self._prefixes.hold(slot, tokens, sequence.num_prompt_tokens)

    @property
    def _can_admit(self) -> bool:
        return bool(self.waiting and self._slots.free)

    @property
    def _free_neighbours(self) -> Set[int]:
        """The free slots beside those whose prompts are evaluated next."""
        slots = [_slot(sequence) for sequence in self.prefilling]
        return self._slots.free & {beside for slot in slots for beside in (slot - 1, slot + 1)}

    def _admit_companions(self, budget: int) -> Iterator[Operation]:
        """Let the next sequences' prompts be evaluated in the call of those that are.

        llama.cpp evaluates sequences in one pass if their slots are consecutive and they have
        equally many rows: so the shorter rests begin earlier, with tokens that are known already.
        """
        while self.waiting and self._is_companion(self.waiting[0], budget):
            yield from self._admit_next(budget)
        if len(self.prefilling) > 1:
            length = max(map(_num_left, self.prefilling))
            for sequence in self.prefilling:
                num_kept = sequence.num_prompt_tokens - length
                sequence.num_cached_tokens = sequence.num_computed_tokens = num_kept
                yield Truncate(_slot(sequence), num_kept)

    def _is_companion(self, sequence: Sequence, budget: int) -> bool:
        """Whether its prompt costs less beside those that are evaluated next than after them."""
        num_cached = max(self._prefixes.find(sequence.prompt_tokens).values(), default=0)
        rests = [*map(_num_left, self.prefilling), sequence.num_prompt_tokens - num_cached]
        length, num_rows = max(rests), max(rests) * len(rests)
        all_by_row = all(
            self._tiling.is_rest_by_row(length, s.num_prompt_tokens)
            for s in [*self.prefilling, sequence]
        )
        beginning = slice(num_cached + _ROWS_PER_CALL)
        is_soon_known = any(
            s.prompt_tokens[beginning] == sequence.prompt_tokens[beginning] for s in self.prefilling
        )
        return (
            bool(self._free_neighbours)
            and min(rests) > 1
            and num_rows <= min(budget, self._tiling.batch_length)
            and num_rows - sum(rests) <= _ROWS_PER_CALL
            and all_by_row
            and not is_soon_known
        )

    def _admit_next(self, budget: int) -> Iterator[Operation]:
        """Give the next sequence a slot, with as much of its prompt as is known somewhere.

        It fills a gap between running ones if it will run with them at once, and else may not stand
        between them.
        """
        sequence = self.waiting[0]
        holders = self._prefixes.find(sequence.prompt_tokens)
        if sequence.num_prompt_tokens - max(holders.values(), default=0) > budget:
            yield from self._close_gaps()
            holders = self._prefixes.find(sequence.prompt_tokens)
        slot = self._choose_slot(holders)
        source: Holder = max(holders, key=lambda h: (holders[h], h == slot), default=slot)
        num_cached = holders.get(source, 0)
        self._slots.take(slot)
        self.prefilling.append(self.waiting.popleft())
        sequence.slot = slot
        sequence.status = SequenceStatus.PREFILL
        sequence.num_cached_tokens = sequence.num_computed_tokens = num_cached
        if isinstance(source, Snapshot):
            self._snapshots.move_to_end(source)
        yield from self._vacate(slot, num_kept=num_cached if source == slot else 0, needed=source)
        yield Truncate(slot, num_cached) if source == slot else Copy(source, slot, num_cached)

    def _choose_slot(self, holders: dict[Holder, int]) -> int:
        """The lowest free slot keeps running ones together; a lone sequence may sit anywhere.

        Prompts that are evaluated in one call sit side by side.
        """
        if self._holding:
            return min(self._free_neighbours or self._slots.free)
        return max(
            self._slots.free,
            key=lambda slot: (holders.get(slot, 0), -self._prefixes.length(slot), -slot),
        )

    def _close_gaps(self) -> Iterator[Operation]:
        """Bring the running sequences on consecutive slots.

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
            self._hold(target, sequence)
            yield Copy(source, target, sequence.num_computed_tokens)
            self._hold(source, sequence)
            rows.sort(key=_slot)

    def _vacate(
        self, slot: int, *, num_kept: int = 0, needed: Holder | None = None
    ) -> Iterator[Operation]:
        """Before all but `num_kept` tokens are overwritten: what nobody else has is saved.

        The snapshot `needed` stays.
        """
        num_held = self._prefixes.length(slot)
        num_lost = min(self._prefixes.num_only_in(slot), num_held - num_kept)
        if num_lost >= max(self._min_snapshot_tokens, num_held * _MIN_SNAPSHOT_SHARE):
            yield from self._save(slot, num_held, needed)
        self._prefixes.drop(slot)

    def _save(self, slot: int, num_tokens: int, needed: Holder | None) -> Iterator[Operation]:
        """Make a snapshot of the slot where the budget allows, the oldest ones giving way."""
        reserved = self._snapshots[needed] if isinstance(needed, Snapshot) else 0
        if num_tokens > self._snapshot_tokens - reserved:
            return
        while sum(self._snapshots.values()) + num_tokens > self._snapshot_tokens:
            oldest = next(iter(self._snapshots))  # `needed` was used last
            del self._snapshots[oldest]
            self._prefixes.drop(oldest)
            yield Discard(oldest)
        self._num_snapshots_made += 1
        snapshot = Snapshot(self._num_snapshots_made)
        yield Save(slot, snapshot)
        self._snapshots[snapshot] = num_tokens
        self._prefixes.share(slot, snapshot)


def _slot(sequence: Sequence) -> int:
    assert sequence.slot is not None
    return sequence.slot


def _num_left(sequence: Sequence) -> int:
    """Of its prompt."""
    return sequence.num_prompt_tokens - sequence.num_computed_tokens


def _next_row(sequence: Sequence) -> Span:
    """The row that evaluates the token sampled last, or the last one of the prompt."""
    tokens = sequence.completion_tokens[-1:] or sequence.prompt_tokens[-1:]
    return Span(_slot(sequence), sequence.num_computed_tokens, tokens, wants_logits=True)
