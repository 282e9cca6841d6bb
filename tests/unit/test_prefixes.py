"""The index finds the longest known beginning of a prompt, in whole chunks."""

import random

from emulator.engine.prefixes import Holder, PrefixIndex, Snapshot

CHUNK = 4


def tokens(*chunks: int, rest: int = 0) -> list[int]:
    """Each chunk a repeated number, then `rest` tokens more."""
    return [chunk for chunk in chunks for _ in range(CHUNK)] + [99] * rest


def test_a_prefix_is_found_in_whole_chunks() -> None:
    index = PrefixIndex(CHUNK)
    index.hold(0, tokens(1, 2, rest=3))
    assert index.length(0) == 2 * CHUNK
    assert index.find(tokens(1, 2, rest=3)) == {0: 2 * CHUNK}
    assert index.find(tokens(1, 3, rest=1)) == {0: CHUNK}
    assert index.find(tokens(2, 1, rest=1)) == {}


def test_the_last_token_of_a_prompt_is_always_left_to_evaluate() -> None:
    index = PrefixIndex(CHUNK)
    index.hold(0, tokens(1, 2))
    assert index.find(tokens(1, 2)) == {0: CHUNK}
    assert index.find(tokens(1, 2, rest=1)) == {0: 2 * CHUNK}


def test_equal_chunks_after_different_beginnings_are_different() -> None:
    index = PrefixIndex(CHUNK)
    index.hold(0, tokens(1, 2))
    assert index.find(tokens(3, 2, rest=1)) == {}


def test_every_holder_is_found_with_its_own_length() -> None:
    index = PrefixIndex(CHUNK)
    index.hold(0, tokens(1, 2, 3))
    index.hold(1, tokens(1, 2, 4))
    index.hold(Snapshot(1), tokens(1))
    expected = {0: 3 * CHUNK, 1: 2 * CHUNK, Snapshot(1): CHUNK}
    assert index.find(tokens(1, 2, 3, rest=1)) == expected


def test_less_than_a_chunk_is_nothing() -> None:
    index = PrefixIndex(CHUNK)
    index.hold(0, [1] * (CHUNK - 1))
    assert index.length(0) == 0
    assert index.is_spare(0)
    assert index.find([1] * CHUNK) == {}


def test_holding_something_else_forgets_what_was_held() -> None:
    index = PrefixIndex(CHUNK)
    index.hold(0, tokens(1, 2))
    index.hold(0, tokens(3))
    assert index.find(tokens(1, 2, rest=1)) == {}
    assert index.find(tokens(3, rest=1)) == {0: CHUNK}


def test_a_holder_is_spare_while_another_has_all_of_it() -> None:
    index = PrefixIndex(CHUNK)
    index.hold(0, tokens(1, 2))
    index.hold(1, tokens(1, 2, 3))
    assert index.is_spare(0)
    assert not index.is_spare(1)
    index.drop(1)
    assert not index.is_spare(0)


def test_a_copy_outlives_its_original() -> None:
    index = PrefixIndex(CHUNK)
    index.hold(0, tokens(1, 2))
    index.share(0, Snapshot(1))
    assert index.is_spare(0)
    index.drop(0)
    assert index.find(tokens(1, 2, rest=1)) == {Snapshot(1): 2 * CHUNK}


def test_dropping_an_unknown_holder_does_nothing() -> None:
    PrefixIndex(CHUNK).drop(3)


def shared(held: list[int], prompt: list[int]) -> int:
    """By comparing: how many tokens of the prompt can be taken from `held`."""
    lengths = range(0, min(len(held), len(prompt) - 1) + 1, CHUNK)
    return max(length for length in lengths if held[:length] == prompt[:length])


def test_the_index_finds_what_comparing_every_token_finds() -> None:
    rng = random.Random(1)
    index, held = PrefixIndex(CHUNK), dict[Holder, list[int]]()
    all_holders: list[Holder] = [0, 1, 2, Snapshot(0), Snapshot(1)]
    for _ in range(2000):
        holder = rng.choice(all_holders)
        if rng.random() < 0.3:
            index.drop(holder)
            held.pop(holder, None)
        else:
            held[holder] = rng.choices([1, 2], k=rng.randrange(14))
            index.hold(holder, held[holder])
        prompt = rng.choices([1, 2], k=rng.randrange(1, 14))
        lengths = {h: shared(t, prompt) for h, t in held.items() if shared(t, prompt)}
        assert index.find(prompt) == lengths
