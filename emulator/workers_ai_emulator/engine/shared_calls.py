"""Checks whether the short texts of a model may share a call of llama.cpp."""

from __future__ import annotations

import logging

import numpy as np

from workers_ai_emulator.engine.embedding_runner import EmbeddingRunner
from workers_ai_emulator.engine.errors import EngineError
from workers_ai_emulator.engine.llama import LlamaModel
from workers_ai_emulator.engine.pooling import Pooling
from workers_ai_emulator.engine.vector_cache import Vector

log = logging.getLogger(__name__)

_LENGTHS = (5, 2, 9)  # the numbers of tokens of the texts that are compared
_MIN_COSINE = 0.999  # 16-bit numbers in flash attention change an embedding much less


def can_share_calls(model: LlamaModel, pooling: Pooling) -> bool:
    """Returns whether texts in a shared call get the embeddings that they get alone, bit for bit.

    Computes a few texts in all ways, and compares the results. They differ, for example, for models
    that keep a state instead of KV cells, and for models whose attention has biases.
    """
    if pooling is Pooling.RANK:
        return False
    try:
        return _compare(model, pooling)
    except EngineError as error:
        log.info("short texts are computed one by one, because llama.cpp failed: %s", error)
        return False


def _compare(model: LlamaModel, pooling: Pooling) -> bool:
    size = model.vocabulary.size
    texts = [[(7 * n + 13 * length) % size for n in range(length)] for length in _LENGTHS]
    runner = EmbeddingRunner(model, sum(_LENGTHS), shares_calls=True)
    other = EmbeddingRunner(model, sum(_LENGTHS))
    try:
        together = runner.embed(texts, pooling, 1)
        alone = [runner.embed([text], pooling, 1)[0] for text in texts]
        expected = other.embed(texts, pooling, 1)
    finally:
        runner.close()
        other.close()
    return all(map(np.array_equal, together, alone)) and all(map(_are_near, alone, expected))


def _are_near(one: Vector, other: Vector) -> bool:
    product = np.linalg.norm(one) * np.linalg.norm(other)
    return bool(one @ other > _MIN_COSINE * product)
