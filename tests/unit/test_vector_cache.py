"""Tests which embeddings the cache keeps."""

from __future__ import annotations

import numpy as np
from workers_ai_emulator.engine.embedder import CACHE_BYTES
from workers_ai_emulator.engine.pooling import Pooling
from workers_ai_emulator.engine.vector_cache import Key, Vector, VectorCache, key_of

VECTOR: Vector = np.zeros(1000, np.float32)
MAX_BYTES = 3 * (VECTOR.nbytes + 500)  # enough for three embeddings of short texts


def key(*tokens: int) -> Key:
    return key_of(tokens, Pooling.MEAN)


def kept(cache: VectorCache, *numbers: int) -> list[int]:
    """Returns those of the numbers whose texts, of one token each, have an embedding."""
    return [n for n in numbers if cache.find(key(n)) is not None]


def test_the_embedding_of_equal_tokens_with_equal_pooling_is_found() -> None:
    cache = VectorCache(MAX_BYTES)
    cache.add(key(1, 2), VECTOR)
    assert cache.find(key_of([1, 2], Pooling.MEAN)) is VECTOR
    assert cache.find(key_of([1, 2], Pooling.CLS)) is None
    assert cache.find(key(2, 1)) is None
    assert cache.find(key(1)) is None


def test_the_least_recently_used_embeddings_are_dropped_first() -> None:
    cache = VectorCache(MAX_BYTES)
    for number in (1, 2, 3):
        cache.add(key(number), VECTOR)
    assert kept(cache, 1) == [1]
    cache.add(key(4), VECTOR)
    assert kept(cache, 1, 2, 3, 4) == [1, 3, 4]


def test_an_embedding_that_is_added_again_is_counted_once() -> None:
    cache = VectorCache(MAX_BYTES)
    for number in (1, 2, 3, 3, 3):
        cache.add(key(number), VECTOR)
    assert kept(cache, 1, 2, 3) == [1, 2, 3]


def test_tokens_count_as_well() -> None:
    cache = VectorCache(MAX_BYTES)
    long = key(*[2] * 5000)
    cache.add(key(1), VECTOR)
    cache.add(long, VECTOR)
    assert kept(cache, 1) == []
    assert cache.find(long) is None  # it does not fit, even alone


def test_the_embeddings_of_about_15000_short_texts_are_kept() -> None:
    """As docs/embeddings.md says, for texts with 20 tokens and embeddings with 384 numbers."""
    cache, vector = VectorCache(CACHE_BYTES), np.zeros(384, np.float32)
    for number in range(20_000):
        cache.add(key(*[number] * 20), vector)
    assert cache.find(key(*[5000] * 20)) is not None
    assert cache.find(key(*[0] * 20)) is None
