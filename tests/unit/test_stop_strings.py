"""Tests that the text of a completion ends before the first stop string."""

from __future__ import annotations

import random
import time

import pytest
from workers_ai_emulator.engine.stop_strings import StopMatcher


def feed(stop: list[str], *pieces: str) -> list[str]:
    """Returns what the matcher returns for each piece, and at the end of the text."""
    matcher = StopMatcher(stop)
    return [*map(matcher.feed, pieces), matcher.flush()]


def expected(stop: list[str], text: str) -> str:
    """Returns the text before the stop string that ends first, found without a matcher."""
    for end in range(len(text) + 1):
        starts = [end - len(s) for s in stop if text[:end].endswith(s)]
        if starts:
            return text[: min(starts)]
    return text


def test_without_stop_strings_the_text_is_unchanged() -> None:
    assert feed([], "a", "", "b") == ["a", "", "b", ""]


def test_an_empty_stop_string_is_ignored() -> None:
    assert feed([""], "a", "b") == ["a", "b", ""]


def test_a_stop_string_within_a_piece_ends_the_text() -> None:
    assert feed(["STOP"], "one STOP two", "three") == ["one ", "", ""]


def test_a_stop_string_over_three_pieces_is_not_returned() -> None:
    assert feed(["STOP"], "a S", "TO", "Pb") == ["a ", "", "", ""]


def test_the_beginning_of_a_stop_string_is_returned_once_other_text_follows() -> None:
    assert feed(["STOP"], "a ST", "UB") == ["a ", "STUB", ""]


def test_the_beginning_of_a_stop_string_at_the_end_is_returned() -> None:
    assert feed(["STOP"], "a STO") == ["a ", "STO"]


def test_the_stop_string_that_ends_first_counts() -> None:
    assert feed(["abcd", "bc"], "abcd") == ["a", ""]
    assert feed(["abc", "bc"], "abc") == ["", ""]


@pytest.mark.parametrize("seed", range(20))
def test_the_result_does_not_depend_on_where_the_text_is_divided(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(200):
        text = "".join(chance.choices("ab\n", k=chance.randrange(24)))
        stop = ["".join(chance.choices("ab\n", k=chance.randint(1, 5))) for _ in range(3)]
        cuts = sorted(chance.choices(range(len(text) + 1), k=4))
        pieces = [text[i:j] for i, j in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        assert "".join(feed(stop, *pieces)) == expected(stop, text), (text, stop, pieces)


def test_a_long_text_that_begins_as_a_stop_string_takes_linear_time() -> None:
    stop = ["a" * 400_000 + end for end in "1234"]
    started = time.process_time()
    returned = feed(stop, "a" * 300_000, "c")
    assert time.process_time() - started < 3
    assert returned == ["", "a" * 300_000 + "c", ""]


@pytest.mark.parametrize("stop", ["a" * 1000 + "b", "ab" * 1000 + "c", "a" * 30 + "b"])
def test_a_text_may_contain_the_beginning_of_a_stop_string_several_times(stop: str) -> None:
    text = stop[:-1] * 3
    assert "".join(feed([stop], *text)) == text
    assert "".join(feed([stop], *text, stop[-1])) == stop[:-1] * 2
