"""Tests how a sequence counts its tokens, and when it ends."""

import pytest
from workers_ai_emulator.engine.sequence import Sequence, SequenceStatus
from workers_ai_emulator.engine.types import FinishReason, SamplingParams, Usage


def test_a_new_sequence_waits_without_a_slot() -> None:
    sequence = Sequence([1, 2, 3], SamplingParams())
    assert sequence.status is SequenceStatus.WAITING
    assert sequence.slot is None
    assert sequence.finish_reason is None
    assert not sequence.is_finished


def test_a_sequence_needs_a_prompt() -> None:
    with pytest.raises(ValueError, match="at least one prompt token"):
        Sequence([], SamplingParams())


def test_it_reserves_its_prompt_and_its_longest_completion() -> None:
    assert Sequence([1, 2, 3], SamplingParams(max_tokens=10)).num_reserved_tokens == 13


def test_a_completion_ends_at_max_tokens() -> None:
    sequence = Sequence([1], SamplingParams(max_tokens=2))
    sequence.append(5, is_last=False)
    assert sequence.finish_reason is None
    sequence.append(6, is_last=False)
    assert sequence.finish_reason is FinishReason.LENGTH


def test_a_completion_ends_where_the_model_ends_it() -> None:
    sequence = Sequence([1], SamplingParams(max_tokens=9))
    sequence.append(256, is_last=True)
    assert sequence.finish_reason is FinishReason.STOP


def test_an_end_of_generation_token_at_max_tokens_is_a_stop() -> None:
    sequence = Sequence([1], SamplingParams(max_tokens=1))
    sequence.append(256, is_last=True)
    assert sequence.finish_reason is FinishReason.STOP


def test_the_token_that_ends_a_completion_is_counted() -> None:
    sequence = Sequence([1, 2, 3], SamplingParams())
    sequence.num_cached_tokens = 2
    sequence.append(5, is_last=False)
    sequence.append(256, is_last=True)
    assert sequence.usage == Usage(3, 2, 2)
    assert sequence.usage.num_total_tokens == 5


@pytest.mark.parametrize(
    ("num_computed", "evaluated"), [(0, []), (2, [1, 2]), (5, [1, 2, 3, 7, 8])]
)
def test_the_evaluated_tokens_are_the_first_computed_ones(
    num_computed: int, evaluated: list[int]
) -> None:
    sequence = Sequence([1, 2, 3], SamplingParams())
    sequence.completion_tokens = [7, 8, 9]
    sequence.num_computed_tokens = num_computed
    assert sequence.evaluated_tokens == evaluated


def test_sequences_with_equal_tokens_are_not_equal() -> None:
    assert Sequence([1], SamplingParams()) != Sequence([1], SamplingParams())


def add(sequence: Sequence, text: str, *, is_last: bool = False) -> str:
    """Appends a token with this text to the sequence, and returns the new part of the text."""
    sequence.append(5, is_last=is_last)
    return sequence.add_piece(text.encode())


def test_a_stop_string_ends_the_sequence_and_is_not_part_of_its_text() -> None:
    sequence = Sequence([1], SamplingParams(max_tokens=9, stop=("END", "\n")))
    assert [add(sequence, text) for text in ("one E", "ND two")] == ["one ", ""]
    assert sequence.finish_reason is FinishReason.STOP
    assert sequence.usage == Usage(1, 2)


def test_a_stop_string_in_the_last_token_is_a_stop() -> None:
    sequence = Sequence([1], SamplingParams(max_tokens=2, stop=("END",)))
    assert [add(sequence, text) for text in ("one EN", "D")] == ["one ", ""]
    assert sequence.finish_reason is FinishReason.STOP


@pytest.mark.parametrize("is_eog", [True, False])
def test_the_last_token_returns_the_text_that_was_held_back(is_eog: bool) -> None:
    sequence = Sequence([1], SamplingParams(max_tokens=2, stop=("END",)))
    last = "" if is_eog else "!"
    texts = [add(sequence, "one EN"), add(sequence, last, is_last=is_eog)]
    assert texts == ["one ", "EN" + last]
