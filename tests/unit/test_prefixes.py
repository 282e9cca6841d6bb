"""Tests that the prefix index finds a cached prefix only if its cells equal the prompt's cells."""

from workers_ai_emulator.engine.prefixes import PrefixIndex, Snapshot
from workers_ai_emulator.engine.tiling import Tiling

TILING = Tiling(start=6, length=4, chunk_length=8)


def index_of(*held: list[int], tiling: Tiling = TILING) -> PrefixIndex:
    """Returns an index of slots; each slot has the cells of one prompt and no completion."""
    index = PrefixIndex(tiling)
    for slot, tokens in enumerate(held):
        index.set(slot, tokens, len(tokens))
    return index


def test_a_prefix_ends_at_the_first_different_token() -> None:
    index = index_of([1, 2, 3, 4])
    assert index.match([1, 2, 3, 5, 6]) == {0: 3}
    assert index.match([1, 9, 3, 4]) == {0: 1}
    assert index.match([2, 1, 3, 4]) == {}
    assert index.length(0) == 4


def test_the_last_token_of_a_prompt_is_never_part_of_the_prefix() -> None:
    index = index_of([1, 2, 3])
    assert index.match([1, 2, 3]) == {0: 2}
    assert index.match([1, 2, 3, 4]) == {0: 3}
    assert index.match([1]) == {}


def test_every_owner_is_found_with_the_length_of_its_prefix() -> None:
    index = index_of([1, 2, 3], [1, 2, 4])
    index.set(Snapshot(1), [1], 1)
    assert index.match([1, 2, 3, 5]) == {0: 3, 1: 2, Snapshot(1): 1}


def test_a_completion_is_reused_where_the_prompt_has_no_tiles() -> None:
    index = PrefixIndex(TILING)
    index.set(0, [1, 2, 3, 4, 5], 2)
    assert index.match([1, 2, 3, 4, 5, 6]) == {0: 5}


def test_a_completion_is_not_reused_where_the_prompt_has_tiles() -> None:
    index = PrefixIndex(TILING)
    index.set(0, list(range(12)), 7)
    assert index.match(list(range(14))) == {0: TILING.start}


def test_tiles_are_not_reused_where_the_prompt_has_none() -> None:
    index = index_of(list(range(12)))
    assert index.match([*range(8), 50]) == {0: TILING.start}


def test_tiles_are_reused_up_to_the_first_difference_if_the_remaining_tokens_fill_one() -> None:
    index = index_of(list(range(20)))
    assert index.match([*range(13), *[50] * 10]) == {0: 13}
    assert index.match([*range(13), *[50] * 2]) == {0: 10}


def test_tokens_after_equal_tiles_are_reused_up_to_the_first_difference() -> None:
    index = index_of(list(range(13)))
    assert index.match([*range(12), 50]) == {0: 12}


def test_setting_an_owner_replaces_its_tokens() -> None:
    index = index_of([1, 2, 3])
    index.set(0, [4, 5], 2)
    assert index.match([1, 2, 3, 4]) == {}
    assert index.match([4, 5, 6]) == {0: 2}
    index.set(0, [], 9)
    assert index.length(0) == 0


def test_a_removed_owner_is_not_found() -> None:
    index = index_of([1, 2], [1, 2])
    index.remove(0)
    index.remove(0)
    assert index.match([1, 2, 3]) == {1: 2}


def test_a_copy_outlives_its_source() -> None:
    index = index_of([1, 2])
    index.copy(0, Snapshot(7))
    index.remove(0)
    assert index.match([1, 2, 3]) == {Snapshot(7): 2}


def test_tokens_that_only_one_owner_holds_are_counted() -> None:
    index = index_of([1, 2, 3, 4], [1, 2, 5])
    assert [index.num_unique(slot) for slot in (0, 1, 2)] == [2, 1, 0]
    index.copy(0, Snapshot(1))
    assert index.num_unique(0) == 0
