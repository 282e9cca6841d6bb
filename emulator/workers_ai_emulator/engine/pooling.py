"""How a model makes one vector for a text out of the vectors of the text's tokens."""

from __future__ import annotations

from enum import Enum


class Pooling(Enum):
    """How a model makes one vector for a text out of the vectors of the text's tokens.

    `MEAN`: the mean of all vectors. `CLS`: the vector of the first token. `LAST`: the vector of
    the last token. `RANK`: the scores of a reranker's classification head, instead of an embedding.
    """

    MEAN = "mean"
    CLS = "cls"
    LAST = "last"
    RANK = "rank"
