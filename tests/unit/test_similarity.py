"""Tests the vectors that the backend `scripted` computes from the words of a text."""

from __future__ import annotations

import math

import pytest
from workers_ai_emulator.backends.similarity import (
    normalized,
    similarities,
    similarity,
    word_vector,
)
from workers_ai_emulator.engine.errors import EngineError, Interrupted

DIMENSIONS = (384, 768, 1024)


def length_of(vector: list[float]) -> float:
    return math.sqrt(math.fsum(x * x for x in vector))


@pytest.mark.parametrize("dimensions", DIMENSIONS)
@pytest.mark.parametrize("text", ["a", "", "   ", "\ud83d", "日本語", "a" * 100_000])
def test_a_vector_has_the_requested_dimensions_and_the_length_one(
    text: str, dimensions: int
) -> None:
    vector = word_vector(text, dimensions)
    assert len(vector) == dimensions and length_of(vector) == pytest.approx(1)


def test_the_vector_of_a_text_never_changes() -> None:
    """A change breaks users' stored indexes and recordings."""
    assert word_vector("Hello, world", 384)[:3] == [-0.035011267, 0.007702911, -0.049827429]


def test_texts_with_common_words_are_nearer_than_others() -> None:
    query = word_vector("How do I reset my password?", 384)
    near = word_vector("Reset your password in the settings.", 384)
    far = word_vector("The bridge was built in 1932.", 384)
    assert similarity(query, near) > similarity(query, far) + 0.1


def test_case_and_order_hardly_matter_but_texts_have_different_vectors() -> None:
    one, other = word_vector("red blue", 384), word_vector("BLUE red", 384)
    assert one != other and similarity(one, other) > 0.99
    one, other = word_vector("Straße", 384), word_vector("STRASSE", 384)
    assert one != other and similarity(one, other) > 0.99
    assert word_vector("a \ud83d", 384) != word_vector("a \ud83e", 384)


def test_a_word_counts_once_however_often_a_text_has_it() -> None:
    assert similarity(word_vector("a a a b", 384), word_vector("a b", 384)) > 0.99


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ([1.0, 0.0], [1.0, 0.0], 1),
        ([1.0, 0.0], [0.0, 1.0], 0),
        ([1.0, 0.0], [-1.0, 0.0], 0),
        ([0.8, 0.600000001], [0.8, 0.600000001], 1),  # as long as rounding may make it
        ([1.0, 0.0], [1 / 3, 0.0], 0.333333333),
    ],
)
def test_similarities_are_from_zero_to_one_with_nine_digits(
    one: list[float], other: list[float], expected: float
) -> None:
    assert similarity(one, other) == expected


def test_a_vector_of_zeros_stays_as_it_is() -> None:
    assert normalized([0.0, 0.0]) == [0.0, 0.0]
    assert normalized([3.0, 4.0]) == [0.6, 0.8]


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, 1e300, 1e154])
def test_a_vector_without_a_finite_length_is_an_error(number: float) -> None:
    with pytest.raises(EngineError, match="not a finite number"):
        normalized([1.0] + [number] * 2)
    with pytest.raises(EngineError):
        similarities([[1.0, 0.0], [number, number]])


def test_similarities_are_those_of_the_first_vector_with_the_others() -> None:
    assert similarities([[2.0, 0.0], [3.0, 4.0], [0.0, 9.0]]) == [0.6, 0.0]
    assert similarities([[2.0, 0.0]]) == []


def test_a_vector_is_no_longer_computed_after_a_cancellation() -> None:
    checks = iter([False] * 10 + [True])
    with pytest.raises(Interrupted):
        word_vector("a b c d e f g h i j k", 384, lambda: next(checks))
    assert next(checks, None) is None
