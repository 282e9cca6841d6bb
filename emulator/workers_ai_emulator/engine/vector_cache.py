"""Keeps the embeddings of recent texts, so that equal texts are not computed again.

Programs embed the same texts again and again: a test suite indexes its documents in each test, and
a program in development indexes them at each start. An embedding depends only on the tokens and the
pooling, so the kept one has the bytes that a computation would have.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from workers_ai_emulator.engine.pooling import Pooling

Vector = NDArray[np.float32]

Key = tuple[Pooling, bytes]

_BYTES_PER_ENTRY = 400  # the approximate size of the objects of an entry, without their contents


class VectorCache:
    """The embeddings of the most recently used texts of one model.

    `max_bytes`: how much memory tokens and embeddings may take together. Only one thread may use a
    cache.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._vectors: dict[Key, Vector] = {}  # the least recently used is first

    def find(self, key: Key) -> Vector | None:
        """Returns the embedding of the text with this key; None if the cache does not have it."""
        vector = self._vectors.pop(key, None)
        if vector is not None:
            self._vectors[key] = vector
        return vector

    def add(self, key: Key, vector: Vector) -> None:
        """Adds an embedding, and drops those that were not used for the longest time."""
        if key in self._vectors:
            return
        self._vectors[key] = vector
        self._num_bytes += _size(key, vector)
        while self._num_bytes > self._max_bytes:
            oldest = next(iter(self._vectors))
            self._num_bytes -= _size(oldest, self._vectors.pop(oldest))


def key_of(tokens: Sequence[int], pooling: Pooling) -> Key:
    """Returns the key of a text. Texts with equal tokens and equal pooling have equal keys."""
    return pooling, array("i", tokens).tobytes()


def _size(key: Key, vector: Vector) -> int:
    return len(key[1]) + vector.nbytes + _BYTES_PER_ENTRY
