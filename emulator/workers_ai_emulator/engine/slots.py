"""Slots are the sequence ids of the llama context. The pool says who has which."""

from __future__ import annotations

from collections.abc import Iterable, Set


class SlotPool:
    """Keeps count of free and taken slots, numbered from 0."""

    def __init__(self, num_slots: int) -> None:
        self._all = frozenset(range(num_slots))
        self._free = set(self._all)

    @property
    def free(self) -> Set[int]:
        return self._free

    def take(self, slot: int) -> None:
        self._free.remove(slot)

    def release(self, slot: int) -> None:
        assert slot in self._all and slot not in self._free
        self._free.add(slot)

    def check_integrity(self, taken: Iterable[int]) -> None:
        """Free and taken slots are all slots, and none is both or taken twice."""
        slots = sorted(taken)
        assert len(slots) == len(set(slots)), f"a slot is taken twice: {slots}"
        assert self._free.isdisjoint(slots), "a taken slot is free"
        assert self._free.union(slots) == self._all, "a slot is lost"
