"""The index finds who holds a beginning of a prompt, with the cells that the prompt would get."""

from workers_ai_emulator.engine.prefixes import PrefixIndex, Snapshot
from workers_ai_emulator.engine.tiling import Tiling

TILING = Tiling(start=6, length=4, chunk_length=8)


def index_of(*held: list[int], tiling: Tiling = TILING) -> PrefixIndex:
    """Slots that hold whole prompts without a completion."""
    index = PrefixIndex(tiling)
    for slot, tokens in enumerate(held):
        index.set(slot, tokens, len(tokens))
    return index


def test_a_beginning_is_found_to_the_first_difference() -> None:
    index = index_of([1, 2, 3, 4])
    assert index.match([1, 2, 3, 5, 6]) == {0: 3}
    assert index.match([1, 9, 3, 4]) == {0: 1}
    assert index.match([2, 1, 3, 4]) == {}
    assert index.length(0) == 4


def test_the_last_token_of_a_prompt_is_always_left_to_evaluate() -> None:
    index = index_of([1, 2, 3])
    assert index.match([1, 2, 3]) == {0: 2}
    assert index.match([1, 2, 3, 4]) == {0: 3}
    assert index.match([1]) == {}


def test_every_holder_is_found_with_its_own_length() -> None:
    index = index_of([1, 2, 3], [1, 2, 4])
    index.set(Snapshot(1), [1], 1)
    assert index.match([1, 2, 3, 5]) == {0: 3, 1: 2, Snapshot(1): 1}


def test_a_completion_is_as_good_as_a_prompt_where_there_are_no_tiles() -> None:
    index = PrefixIndex(TILING)
    index.set(0, [1, 2, 3, 4, 5], 2)
    assert index.match([1, 2, 3, 4, 5, 6]) == {0: 5}


def test_a_completion_is_of_no_use_where_the_prompt_has_tiles() -> None:
    index = PrefixIndex(TILING)
    index.set(0, list(range(12)), 7)
    assert index.match(list(range(14))) == {0: TILING.start}


def test_tiles_are_of_no_use_where_the_prompt_has_none() -> None:
    index = index_of(list(range(12)))
    assert index.match([*range(8), 50]) == {0: TILING.start}


def test_tiles_are_shared_to_the_first_difference_if_what_is_left_fills_one() -> None:
    index = index_of(list(range(20)))
    assert index.match([*range(13), *[50] * 10]) == {0: 13}
    assert index.match([*range(13), *[50] * 2]) == {0: 10}


def test_what_follows_equal_tiles_is_shared_to_the_first_difference() -> None:
    index = index_of(list(range(13)))
    assert index.match([*range(12), 50]) == {0: 12}


def test_holding_something_else_forgets_what_was_held() -> None:
    index = index_of([1, 2, 3])
    index.set(0, [4, 5], 2)
    assert index.match([1, 2, 3, 4]) == {}
    assert index.match([4, 5, 6]) == {0: 2}
    index.set(0, [], 9)
    assert index.length(0) == 0


def test_what_is_dropped_is_not_found() -> None:
    index = index_of([1, 2], [1, 2])
    index.remove(0)
    index.remove(0)
    assert index.match([1, 2, 3]) == {1: 2}


def test_a_share_is_held_until_it_is_dropped_too() -> None:
    index = index_of([1, 2])
    index.copy(0, Snapshot(7))
    index.remove(0)
    assert index.match([1, 2, 3]) == {Snapshot(7): 2}


def test_what_only_one_holder_has_is_counted() -> None:
    index = index_of([1, 2, 3, 4], [1, 2, 5])
    assert [index.num_unique(slot) for slot in (0, 1, 2)] == [2, 1, 0]
    index.copy(0, Snapshot(1))
    assert index.num_unique(0) == 0
