"""Tests that only a prompt token's position decides whether it is computed in a tile.

A tile has 64 or more rows of one sequence, which llama.cpp computes together.
"""

import itertools

import pytest
from workers_ai_emulator.engine.tiling import Tiling

TILING = Tiling(start=6, length=4, chunk_length=8, long_chunk_length=12)


def chunks(
    num_prompt_tokens: int, position: int = 0, *, may_be_long: bool = False
) -> list[tuple[int, int]]:
    """Returns the start and length of each call that evaluates a part of the prompt.

    The calls begin at `position`.
    """
    found = []
    while position < num_prompt_tokens:
        length = TILING.next_length(position, num_prompt_tokens, may_be_long=may_be_long)
        found.append((position, length))
        position += length
    assert position == num_prompt_tokens
    return found


def tiled(num_prompt_tokens: int, position: int = 0, *, may_be_long: bool = False) -> set[int]:
    """Returns the positions of the tokens that are computed in tiles, from `position` on."""
    return {
        token
        for start, length in chunks(num_prompt_tokens, position, may_be_long=may_be_long)
        for token in range(start, start + length)
        if length >= TILING.length
    }


def test_a_long_prompt_is_cut_into_rows_tiles_and_its_last_token() -> None:
    assert chunks(17) == [(0, 3), (3, 3), (6, 10), (16, 1)]
    assert chunks(29) == [(0, 3), (3, 3), (6, 8), (14, 8), (22, 6), (28, 1)]
    assert chunks(29, may_be_long=True) == [(0, 3), (3, 3), (6, 12), (18, 10), (28, 1)]


def test_a_short_prompt_has_no_tiles() -> None:
    assert chunks(10) == [(0, 3), (3, 3), (6, 3), (9, 1)]
    assert TILING.end(10) == TILING.end(0) == TILING.start


@pytest.mark.parametrize("num_prompt_tokens", range(1, 30))
def test_only_the_position_of_a_token_decides_whether_it_is_tiled(num_prompt_tokens: int) -> None:
    end = TILING.end(num_prompt_tokens)
    expected = set(range(TILING.start, end))
    positions = {*range(TILING.start + 1), *range(TILING.start, end - TILING.length + 1)}
    for position in positions.intersection(range(num_prompt_tokens)):
        for may_be_long in (False, True):
            found = tiled(num_prompt_tokens, position, may_be_long=may_be_long)
            assert found == {t for t in expected if t >= position}
    assert end in (TILING.start, num_prompt_tokens - 1)
    assert all(length <= TILING.batch_length for _, length in chunks(num_prompt_tokens))


def test_shared_tokens_are_computed_in_the_same_way_and_the_remaining_tiles_fill_a_call() -> None:
    for mine, other in itertools.product(range(1, 30), repeat=2):
        for num_equal in range(min(mine, other) + 1):
            shared = TILING.num_shareable(num_equal, TILING.end(mine), TILING.end(other))
            assert shared <= num_equal
            assert {t for t in tiled(mine) if t < shared} == {t for t in tiled(other) if t < shared}
            assert tiled(mine, shared) == {t for t in tiled(mine) if t >= shared}


def test_the_longest_possible_prefix_is_shared() -> None:
    assert TILING.num_shareable(5, 6, 6) == 5
    assert TILING.num_shareable(8, 6, 6) == 8
    assert TILING.num_shareable(13, 18, 18) == 13
    assert TILING.num_shareable(13, 14, 14) == 10
    assert TILING.num_shareable(15, 14, 14) == 15
    assert TILING.num_shareable(15, 18, 14) == 14


@pytest.mark.parametrize(
    ("position", "calls"),
    [
        (0, [*[63] * 4, *[128] * 5, 107, 1]),
        (300, [*[128] * 4, 187, 1]),
    ],
)
def test_the_example_in_the_module_is_right(position: int, calls: list[int]) -> None:
    tiling, lengths = Tiling(), []
    assert tiling.end(1000) == 999
    while position < 1000:
        lengths.append(tiling.next_length(position, 1000))
        position += lengths[-1]
    assert lengths == calls
