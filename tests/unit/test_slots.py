"""Tests the pool, which stores which slots are free."""

import random

import pytest
from workers_ai_emulator.engine.slots import SlotPool


def test_at_first_all_slots_are_free() -> None:
    pool = SlotPool(3)
    assert pool.free == {0, 1, 2}
    pool.check_integrity([])


def test_a_taken_slot_is_not_free_until_it_is_released() -> None:
    pool = SlotPool(2)
    pool.take(1)
    assert pool.free == {0}
    pool.release(1)
    assert pool.free == {0, 1}


def test_a_slot_cannot_be_taken_twice() -> None:
    pool = SlotPool(2)
    pool.take(0)
    with pytest.raises(KeyError):
        pool.take(0)


@pytest.mark.parametrize("slot", [0, 7])
def test_only_a_taken_slot_can_be_released(slot: int) -> None:
    with pytest.raises(AssertionError):
        SlotPool(2).release(slot)


@pytest.mark.parametrize(
    ("taken", "complaint"),
    [([0, 0], "taken twice"), ([0, 1], "a taken slot is free"), ([], "a slot is lost")],
)
def test_the_integrity_check_finds_wrong_sets_of_taken_slots(
    taken: list[int], complaint: str
) -> None:
    pool = SlotPool(2)
    pool.take(0)
    with pytest.raises(AssertionError, match=complaint):
        pool.check_integrity(taken)


def test_every_slot_is_free_or_taken_after_any_operations() -> None:
    rng = random.Random(1)
    pool, taken = SlotPool(5), set[int]()
    for _ in range(500):
        slot = rng.randrange(5)
        if slot in taken:
            pool.release(slot)
            taken.remove(slot)
        else:
            pool.take(slot)
            taken.add(slot)
        pool.check_integrity(taken)
