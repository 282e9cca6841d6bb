"""Computes vectors from words, without a model, and compares vectors."""

from __future__ import annotations

import hashlib
import math
import random
import re
from collections.abc import Sequence

_WORD = re.compile(r"\w+")
_MIN_WEIGHT = 0.05  # of the vector of the whole text, in which texts with equal words differ


def word_vector(text: str, dimensions: int) -> list[float]:
    """Returns a vector of length 1 for a text, which is equal for equal texts.

    It is the sum of a pseudo-random vector for each distinct word, without regard to case, and of a
    short one for the whole text. So texts that share words are nearer to each other than others.
    """
    words = {word.casefold() for word in _WORD.findall(text)}
    total = _random_vector(f"text {text}", dimensions, _MIN_WEIGHT)
    for word in sorted(words):
        vector = _random_vector(f"word {word}", dimensions, 1.0)
        total = [a + b for a, b in zip(total, vector, strict=True)]
    return normalized(total)


def normalized(vector: Sequence[float]) -> list[float]:
    """Returns the vector with length 1. A vector of zeros stays as it is."""
    length = math.sqrt(math.fsum(x * x for x in vector)) or 1.0
    return [round(x / length, 9) for x in vector]


def similarity(one: Sequence[float], other: Sequence[float]) -> float:
    """Returns the cosine similarity of two vectors of length 1, from 0 to 1.

    Returns 0 for vectors that point in opposite directions.
    """
    product = math.fsum(a * b for a, b in zip(one, other, strict=True))
    return round(min(max(product, 0.0), 1.0), 9)


def _random_vector(seed: str, dimensions: int, length: float) -> list[float]:
    digest = hashlib.sha256(seed.encode("utf-8", "surrogatepass")).digest()
    generator = random.Random(digest)
    scale = length / math.sqrt(dimensions)
    return [generator.gauss(0.0, scale) for _ in range(dimensions)]
