"""Tests the vectors that the backend `scripted` computes from the words of a text."""

from __future__ import annotations

import math

import pytest
from workers_ai_emulator.backends.similarity import normalized, similarity, word_vector

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


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [([1.0, 0.0], [1.0, 0.0], 1), ([1.0, 0.0], [0.0, 1.0], 0), ([1.0, 0.0], [-1.0, 0.0], 0)],
)
def test_similarities_are_from_zero_to_one(
    one: list[float], other: list[float], expected: float
) -> None:
    assert similarity(one, other) == expected


def test_a_vector_of_zeros_stays_as_it_is() -> None:
    assert normalized([0.0, 0.0]) == [0.0, 0.0]
    assert normalized([3.0, 4.0]) == [0.6, 0.8]
