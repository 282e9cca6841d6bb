"""Computes vectors from words, without a model, and compares vectors."""

from __future__ import annotations

import hashlib
import math
import re
import struct
from collections.abc import Callable, Iterable, Sequence
from operator import add

from workers_ai_emulator.engine.errors import EngineError, Interrupted

_WORD = re.compile(r"\w+")
# How much longer the vector of a word is than that of the whole text, in which texts with equal
# words differ.
_WORD_WEIGHT = 20


def word_vector(
    text: str, dimensions: int, is_cancelled: Callable[[], bool] = lambda: False
) -> list[float]:
    """Returns a vector of length 1 for a text, which is equal for equal texts on every machine.

    It is the sum of a pseudo-random vector for each distinct word, without regard to case, and of a
    short one for the whole text. So texts that share words are nearer to each other than others.

    `is_cancelled` is called often. Raises Interrupted once it returns True.
    """
    words = [word.casefold() for word in _WORD.findall(text)]
    total = _random_vector("word", words, dimensions, is_cancelled)
    total = [_WORD_WEIGHT * number for number in total]
    short = _random_vector("text", [text], dimensions, is_cancelled)
    return normalized([*map(add, total, short)])


def normalized(vector: Sequence[float]) -> list[float]:
    """Returns the vector with length 1. A vector of zeros stays as it is.

    Raises EngineError if the vector has no finite length, for example because a number is NaN.
    """
    try:
        length = math.sqrt(math.fsum(x * x for x in vector))
    except OverflowError:  # the sum is too large
        length = math.inf
    divisor = divisor_of(length)
    return [round(x / divisor, 9) for x in vector]


def divisor_of(length: float) -> float:
    """Returns the number by which a vector of this length is divided to get the length 1.

    It is 1 for the length 0. Raises EngineError if the length is not finite.
    """
    if not math.isfinite(length):
        raise EngineError("the model computed an embedding whose length is not a finite number")
    return length or 1.0


def similarity(one: Sequence[float], other: Sequence[float]) -> float:
    """Returns the cosine similarity of two vectors of length 1, from 0 to 1.

    Returns 0 for vectors that point in opposite directions.
    """
    product = math.fsum(a * b for a, b in zip(one, other, strict=True))
    return round(min(max(product, 0.0), 1.0), 9)


def similarities(vectors: Iterable[Sequence[float]]) -> list[float]:
    """Returns the similarity of the first vector, the query, with each of the others.

    The vectors may have any length. Raises EngineError if a length is not finite.
    """
    return similarities_of_units(map(normalized, vectors))


def similarities_of_units(vectors: Iterable[Sequence[float]]) -> list[float]:
    """As `similarities`, for vectors of length 1."""
    query, *others = vectors
    return [similarity(query, other) for other in others]


def _random_vector(
    kind: str, texts: Sequence[str], dimensions: int, is_cancelled: Callable[[], bool]
) -> list[int]:
    """Returns the sum of a pseudo-random vector for each distinct text.

    The numbers are integers, whose sum does not depend on the order or the machine. `kind`: texts
    of different kinds have different vectors.
    """
    total = [0] * dimensions
    for text in set(texts):
        if is_cancelled():
            raise Interrupted("the request was cancelled")
        seed = f"{kind} {text}".encode("utf-8", "surrogatepass")
        data = hashlib.shake_128(seed).digest(2 * dimensions)
        total = [*map(add, total, struct.unpack(f"<{dimensions}h", data))]
    return total
