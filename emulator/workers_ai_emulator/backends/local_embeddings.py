"""The part of the backend `llama` that computes embeddings and rankings."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from workers_ai_emulator.backends.similarity import divisor_of, similarities_of_units
from workers_ai_emulator.engine.errors import EngineError, TextsTooLong, TextTooLong
from workers_ai_emulator.engine.pooling import Pooling
from workers_ai_emulator.models.spec import ModelSpec
from workers_ai_emulator.runtime.embedders import Embedders, LoadedEmbedder
from workers_ai_emulator.tasks.embeddings import EmbeddingRequest, Embeddings, Scores
from workers_ai_emulator.wire.context import CallContext

if TYPE_CHECKING:  # numpy is installed only with the extra `model`
    from workers_ai_emulator.engine.vector_cache import Vector

# More vectors are normalised in a thread, not on the event loop, where they take about 0.2 ms.
_MAX_VECTORS_ON_LOOP = 10


class LocalEmbeddings:
    """Computes embeddings and rankings with llama.cpp."""

    def __init__(self, embedders: Embedders) -> None:
        self._embedders = embedders

    async def embed(
        self, request: EmbeddingRequest, spec: ModelSpec, context: CallContext
    ) -> tuple[Embeddings, str]:
        async with self._embedders.lease(spec) as loaded:
            tokens, num_tokens = await _tokenized(request.texts, request, spec, loaded, context)
            pooling = request.pooling
            if loaded.weights.is_trusted:
                pooling = Pooling.MEAN  # the only one with which the stand-in model was trained
            vectors = await loaded.embedder.embed(tokens, pooling)
        dimensions = _dimensions(spec, loaded)
        if len(vectors) <= _MAX_VECTORS_ON_LOOP:
            return Embeddings(_units(vectors, dimensions), num_tokens), loaded.weights.name
        units = await asyncio.to_thread(_units, vectors, dimensions)
        return Embeddings(units, num_tokens), loaded.weights.name

    async def rank(
        self, request: EmbeddingRequest, spec: ModelSpec, context: CallContext
    ) -> tuple[Scores, str]:
        assert request.query is not None
        async with self._embedders.lease(spec) as loaded:
            texts = [request.query, *request.texts]
            (query, *tokens), num_tokens = await _tokenized(texts, request, spec, loaded, context)
            if request.pooling is Pooling.RANK and not loaded.weights.is_trusted:
                limit, num_separators = _limit(spec, loaded), loaded.opened.num_separators
                pairs = [_pair(query, text, limit, num_separators) for text in tokens]
                outputs = await loaded.embedder.embed(pairs, Pooling.RANK)
                scores = [_score(float(output[0])) for output in outputs]
                return Scores(scores, sum(map(len, pairs))), loaded.weights.name
            # Without a reranker's weights, the similarity of the embeddings is the score.
            pooling = Pooling.MEAN if loaded.weights.is_trusted else request.pooling
            vectors = await loaded.embedder.embed([query, *tokens], pooling)
        scores = await asyncio.to_thread(lambda: similarities_of_units(map(_unit, vectors)))
        return Scores(scores, num_tokens), loaded.weights.name


async def _tokenized(
    texts: Sequence[str],
    request: EmbeddingRequest,
    spec: ModelSpec,
    loaded: LoadedEmbedder,
    context: CallContext,
) -> tuple[list[list[int]], int]:
    """Returns the tokens of each text, and how many tokens the requested model would compute.

    The texts are cut to the requested model's limit if the request allows it, and to the limit of
    the loaded weights: the stand-in model has a lower limit than some models. Raises TextTooLong if
    a text is too long and must not be cut, or TextsTooLong if all texts together are too long.
    """
    assert spec.embedding is not None
    limit, most = spec.embedding.max_tokens, spec.embedding.max_request_tokens
    are_whole = most is not None or not request.truncates
    tokenize = partial(loaded.tokenize, texts, limit, are_whole=are_whole)
    if context.is_large or loaded.opened.tokenizer.is_isolated:
        tokens = await asyncio.to_thread(tokenize)
    else:
        tokens = tokenize()
    num_tokens = sum(map(len, tokens))
    if most is not None and num_tokens > most:
        raise TextsTooLong(num_tokens, most)
    if not request.truncates and (longest := max(map(len, tokens), default=0)) > limit:
        raise TextTooLong(longest, limit)
    cut = [_cut(text, _limit(spec, loaded)) for text in tokens]
    return cut, sum(min(len(text), limit) for text in tokens)


def _limit(spec: ModelSpec, loaded: LoadedEmbedder) -> int:
    """Returns to how many tokens a text is cut for the requested model and the loaded weights."""
    assert spec.embedding is not None
    return min(spec.embedding.max_tokens, loaded.opened.context_length)


def _cut(tokens: list[int], limit: int) -> list[int]:
    """Cuts a text to `limit` tokens, but keeps its last token, which marks the end of a text."""
    return tokens if len(tokens) <= limit else [*tokens[: limit - 1], tokens[-1]]


def _pair(query: list[int], text: list[int], limit: int, num_separators: int) -> list[int]:
    """Returns the tokens of a query and a text as a reranker expects them.

    `num_separators`: how many of the tokens that end a text are between query and text. The text's
    start token is left out. If both together have more than `limit` tokens, the text is cut, and
    the query to half of the limit.
    """
    query = _cut(query, limit // 2)
    query = query + query[-1:] * (num_separators - 1)
    return [*query, *_cut(text[1:], limit - len(query))]


def _dimensions(spec: ModelSpec, loaded: LoadedEmbedder) -> int:
    """Returns the length of embeddings: that of the requested model for the stand-in model."""
    assert spec.embedding is not None
    return spec.embedding.dimensions if loaded.weights.is_trusted else 0


def _units(vectors: Sequence[Vector], num_dimensions: int) -> list[list[float]]:
    return [_unit(vector, num_dimensions) for vector in vectors]


def _unit(vector: Vector, num_dimensions: int = 0) -> list[float]:
    """Returns the vector with length 1, and zeros up to `num_dimensions`, which change no angle.

    A vector of zeros stays as it is. Raises EngineError if a number is not finite.
    """
    numbers = vector.astype(float)
    divisor = divisor_of(math.sqrt(numbers @ numbers))
    unit: list[float] = (numbers / divisor).round(9).tolist()
    return unit + [0.0] * (num_dimensions - len(unit))


def _score(output: float) -> float:
    """Converts the output of a reranker to a score from 0 to 1. Raises EngineError for NaN."""
    if math.isnan(output):
        raise EngineError("the model computed a score that is not a number")
    return _sigmoid(output)


def _sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value)) if value > -700 else 0.0
