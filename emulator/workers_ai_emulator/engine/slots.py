"""Tracks which slots of the KV cache are free. A slot's number is its sequence id in llama.cpp."""

from __future__ import annotations

from collections.abc import Iterable, Set


class SlotPool:
    """The slots of the KV cache, numbered from 0. Each slot is free or taken."""

    def __init__(self, num_slots: int) -> None:
        self._all = frozenset(range(num_slots))
        self._free = set(self._all)

    @property
    def free(self) -> Set[int]:
        return self._free

    def take(self, slot: int) -> None:
        """Marks a free slot as taken. Raises KeyError if the slot is not free."""
        self._free.remove(slot)

    def release(self, slot: int) -> None:
        """Marks a taken slot as free."""
        assert slot in self._all and slot not in self._free
        self._free.add(slot)

    def check_integrity(self, taken: Iterable[int]) -> None:
        """Asserts that each slot is either free or in `taken`, and `taken` has no slot twice."""
        slots = sorted(taken)
        assert len(slots) == len(set(slots)), f"a slot is taken twice: {slots}"
        assert self._free.isdisjoint(slots), "a taken slot is free"
        assert self._free.union(slots) == self._all, "a slot is lost"
