from __future__ import annotations

from workers_ai_emulator.engine.drafts import Drafter, TextIndex
from workers_ai_emulator.engine.sequence import Sequence
from workers_ai_emulator.engine.types import SamplingParams


def sequence(text: str, completion: str = "", max_tokens: int = 100) -> Sequence:
    """Returns a sequence whose tokens are the bytes of a text."""
    result = Sequence(list(text.encode()), SamplingParams(max_tokens=max_tokens))
    append(result, completion)
    return result


def append(sequence: Sequence, text: str) -> None:
    for token in text.encode():
        sequence.append(token, is_last=False)
    sequence.num_computed_tokens = sequence.num_tokens - 1


def guess(index: TextIndex, of: Sequence, length: int = 5) -> tuple[str, int]:
    index.update(of)
    result = index.guess(length)
    return bytes(result.tokens).decode(), result.match


def drafter(*durations: float) -> Drafter:
    """Returns a drafter with the durations of decode calls of 1, 2, 4, 8 and 16 rows."""
    result = Drafter(max_rows=16)
    for num_rows, duration in zip((1, 2, 4, 8, 16), durations, strict=True):
        result.costs.calibrate(num_rows, duration)
    return result


def draft(by: Drafter, of: Sequence) -> str:
    return bytes(by.draft(of)).decode()


def learn(by: Drafter, new: str, *, times: int) -> None:
    for _ in range(times):
        by.learn(list(new.encode()))


def test_a_guess_is_what_followed_the_last_tokens_before() -> None:
    text = sequence("the quick fox; the slow dog; the quick ")
    assert guess(TextIndex(), text) == ("fox; ", 8)
    assert guess(TextIndex(), sequence("abXY, bQ, ab")) == ("XY, b", 2)


def test_the_latest_place_is_taken_of_several() -> None:
    assert guess(TextIndex(), sequence("1234 one, 1234 two, 1234 ")) == ("two, ", 7)


def test_a_guess_may_reach_from_the_prompt_into_the_completion() -> None:
    text = sequence("say abc", " abc")
    index = TextIndex()
    assert guess(index, text) == (" abc", 4)
    append(text, " ab")
    assert guess(index, text, 1) == ("c", 7)


def test_there_is_no_guess_without_a_match() -> None:
    assert guess(TextIndex(), sequence("abc")) == ("", 0)
    assert guess(TextIndex(), sequence("a")) == ("", 0)


def test_a_guess_may_come_from_an_earlier_request() -> None:
    index = TextIndex()
    guess(index, sequence("question one?", "an answer"))
    assert guess(index, sequence("another one?")) == ("an an", 5)


def test_a_text_that_is_continued_after_another_is_found_again() -> None:
    index = TextIndex()
    first, second = sequence("first 12345"), sequence("second 6789")
    for text in (first, second, first, second):
        guess(index, text)
    append(first, " 123")
    assert guess(index, first) == ("45 12", 4)


def test_the_index_forgets_older_texts_beyond_its_limit() -> None:
    index = TextIndex(max_tokens=20)
    guess(index, sequence("remember abcd"))
    assert guess(index, sequence(" abc"))[0].startswith("d")
    assert guess(index, sequence("0123456789")) == ("", 0)
    assert guess(index, sequence(" abc")) == ("", 0)


def test_a_present_text_beyond_the_limit_is_still_indexed() -> None:
    index, text = TextIndex(max_tokens=8), sequence("12345 678")
    guess(index, text)
    append(text, " 9 12345")
    assert guess(index, text, 3) == (" 67", 5)


def test_rows_that_cost_nothing_are_used_and_expensive_rows_are_not() -> None:
    text = sequence("the quick brown fox; the quick ")
    assert draft(drafter(1, 1, 1, 1, 1), text) == "brown fox; the "
    assert draft(drafter(1, 3, 9, 27, 81), text) == ""


def test_a_draft_is_as_long_as_saves_the_most_time() -> None:
    text = sequence("the quick brown fox; the quick ")
    assert len(draft(drafter(1, 1, 1, 9, 20), text)) == 3


def test_a_draft_leaves_room_for_the_sampled_token() -> None:
    for left in (1, 2, 4):
        text = sequence("the quick brown fox; the quick ", max_tokens=left)
        assert len(draft(drafter(1, 1, 1, 1, 1), text)) == left - 1


def test_wrong_guesses_end_the_drafts_and_right_guesses_start_them_again() -> None:
    text = sequence("the quick brown fox; the quick ")
    by = drafter(1, 1.3, 1.6, 2, 3)
    assert draft(by, text)
    learn(by, "x", times=100)
    assert not draft(by, text)
    learn(by, "brown fox; the ", times=100)
    assert draft(by, text) == "brown fox; the "


def test_single_rows_are_preferred_if_several_rows_cost_more() -> None:
    two = [sequence("ab"), sequence("cd")]
    assert drafter(1, 3, 4, 5, 6).prefers_single_rows(two)
    assert not drafter(1, 1.5, 4, 5, 6).prefers_single_rows(two)
    assert not drafter(1, 3, 4, 5, 6).prefers_single_rows(2 * two)
    assert not drafter(1, 3, 4, 5, 6).prefers_single_rows(16 * two)
