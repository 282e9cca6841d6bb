"""Checks whether the short texts of a model may share a call of llama.cpp."""

from __future__ import annotations

import logging

import numpy as np

from workers_ai_emulator.engine.embedding_runner import SHARED_LENGTH, EmbeddingRunner
from workers_ai_emulator.engine.errors import EngineError
from workers_ai_emulator.engine.llama import LlamaModel
from workers_ai_emulator.engine.pooling import Pooling
from workers_ai_emulator.engine.vector_cache import Vector

log = logging.getLogger(__name__)

# The numbers of tokens of the texts that are compared. Together, they fill a call. llama.cpp uses
# other routines for calls with more than some number of tokens, such as 8 or 32.
_LENGTHS = (5, 2, 9, 13, 34)
_MIN_COSINE = 0.999  # 16-bit numbers in flash attention change an embedding much less


def can_share_calls(model: LlamaModel, num_threads: int) -> bool:
    """Returns whether texts in a shared call get the vectors that they get alone, bit for bit.

    Computes a few texts together and alone, and compares the vectors of all their tokens. They
    differ, for example, for models that keep a state instead of KV cells, for models with relative
    position biases, and for weights with K-quants that are repacked. Also checks that a text has
    almost the embedding that llama.cpp computes without a shared call.
    """
    size = model.vocabulary.size
    texts = [[(7 * n + 13 * length) % size for n in range(length)] for length in _LENGTHS]
    runner = EmbeddingRunner(model, SHARED_LENGTH, shares_calls=True)
    other = EmbeddingRunner(model, SHARED_LENGTH)
    try:
        together = [rows.copy() for rows in runner.token_vectors(texts, num_threads)]
        alone = [runner.token_vectors([text], num_threads)[0].copy() for text in texts]
        (expected,) = other.embed(texts[:1], Pooling.MEAN, num_threads)
        (shared,) = runner.embed(texts[:1], Pooling.MEAN, num_threads)
    except EngineError as error:
        log.info("short texts are computed one by one, because llama.cpp failed: %s", error)
        return False
    finally:
        runner.close()
        other.close()
    return all(map(np.array_equal, together, alone)) and _are_near(shared, expected)


def _are_near(one: Vector, other: Vector) -> bool:
    product = np.linalg.norm(one) * np.linalg.norm(other)
    return bool(one @ other > _MIN_COSINE * product)
