"""Answers the questions of a request by the similarity of embeddings, for all backends."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterator, Sequence

from workers_ai_emulator.backends.similarity import similarities
from workers_ai_emulator.models.spec import ModelSpec
from workers_ai_emulator.tasks.decisions import DecisionRequest, Decisions
from workers_ai_emulator.tasks.embeddings import EmbeddingRequest, Embeddings
from workers_ai_emulator.wire.context import CallContext
from workers_ai_emulator.wire.errors import INVALID_DATA, WireError

# How far the similarities of two options must differ so that one is e (2.7) times as probable.
_TEMPERATURE = 0.05
# Stands for the similarity of an answer without a description, yes or no: unrelated texts are less
# similar than this, and related texts are more similar [measured with all-MiniLM-L6-v2].
_TYPICAL_SIMILARITY = 0.2
# How many embeddings are in memory at the same time. A request may have 16,321 texts.
_MAX_TEXTS = 1000

# Computes embeddings, like `Backend.embed`.
Embed = Callable[[EmbeddingRequest, ModelSpec, CallContext], Awaitable[tuple[Embeddings, str]]]


async def decide_by_similarity(
    embed: Embed, request: DecisionRequest, spec: ModelSpec, context: CallContext
) -> tuple[Decisions, str]:
    """Returns probabilities that grow with the similarity of the state and the option's text.

    The text contains the question's instructions. Also returns the name of what computed the
    embeddings. `embed`: computes them. Raises WireError if the request has images, and the errors
    of `embed`.
    """
    if request.has_images:
        raise WireError(INVALID_DATA, "images")
    assert spec.embedding is not None
    texts, model, num_tokens = request.texts, "", 0
    state: Sequence[Sequence[float]] = ()
    similar: list[float] = []
    for start in range(0, len(texts), _MAX_TEXTS):
        part = texts[start : start + _MAX_TEXTS]
        part_request = EmbeddingRequest(part, spec.embedding.pooling, truncates=True)
        embeddings, model = await embed(part_request, spec, context)
        similar += await asyncio.to_thread(similarities, [*state, *embeddings.vectors])
        state = state or embeddings.vectors[:1]
        num_tokens += embeddings.num_tokens
    values = iter(similar)
    chances = [_softmax([*_filled(each.texts, values)]) for each in request.questions]
    return Decisions(chances, num_tokens), model


def _filled(texts: Sequence[str | None], similar: Iterator[float]) -> Iterator[float]:
    """Yields the similarity of each text of a question. `similar`: those that were computed."""
    for text in texts:
        yield _TYPICAL_SIMILARITY if text is None else next(similar)


def _softmax(values: Sequence[float]) -> list[float]:
    most = max(values)
    weights = [math.exp((value - most) / _TEMPERATURE) for value in values]
    total = math.fsum(weights)
    return [weight / total for weight in weights]
