"""Writes the results of embedding models and rerankers, in the form of each model.

The keys and their order are in `docs/parity.md`, with their provenance.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Sequence

from workers_ai_emulator.engine.types import Usage
from workers_ai_emulator.models.spec import ModelSpec
from workers_ai_emulator.tasks.embeddings import EmbeddingRequest, Embeddings, Scores
from workers_ai_emulator.tasks.response_formats.response_format import Json
from workers_ai_emulator.tasks.response_formats.usage import UsageDetails
from workers_ai_emulator.wire.envelope import written_numbers


def embeddings_result(spec: ModelSpec, request: EmbeddingRequest, result: Embeddings) -> Json:
    """Returns the result of `ai/run` for a request for embeddings."""
    assert spec.embedding is not None
    vectors = result.vectors
    shape = [len(vectors), len(vectors[0]) if vectors else spec.embedding.dimensions]
    data = [written_numbers(vector) for vector in vectors]
    if request.result == "contexts":
        return {"response": data, "shape": shape, "pooling": request.pooling.value}
    match spec.embedding.form:
        case "bge-m3":
            return {
                "data": data,
                "shape": shape,
                "pooling": request.pooling.value,
                "response": None,
                "meta": _cost(spec, result.num_tokens),
            }
        case "gemma":
            return {"data": data, "shape": shape}
        case "qwen3":
            return {"data": data, "shape": shape, "usage": _usage(spec, result.num_tokens)}
    return {
        "shape": shape,
        "data": data,
        "pooling": request.pooling.value,
        "usage": _usage(spec, result.num_tokens),
    }


def scores_result(spec: ModelSpec, request: EmbeddingRequest, result: Scores) -> Json:
    """Returns the result of `ai/run` for a ranking: the best text first.

    `id` is the index of the text in the request.
    """
    assert spec.embedding is not None
    ranked = sorted(enumerate(result.values), key=lambda item: -item[1])[: request.top_k]
    response: Json = {"response": [{"id": index, "score": score} for index, score in ranked]}
    if spec.embedding.form == "reranker":  # the documented result of bge-m3 has no usage
        response["usage"] = _usage(spec, result.num_tokens)
    return response


def openai_embeddings(spec: ModelSpec, result: Embeddings, *, is_base64: bool) -> Json:
    """Returns the body of a response of `ai/v1/embeddings`. It has no `usage` [recorded 2026-08].

    `is_base64`: whether each embedding is the base64 text of 32-bit floats in little-endian order,
    which OpenAI's SDK for Python requests, instead of a list of numbers.
    """
    encode = _base64 if is_base64 else written_numbers
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "embedding": encode(vector), "index": index}
            for index, vector in enumerate(result.vectors)
        ],
        "model": spec.name,
    }


def _usage(spec: ModelSpec, num_tokens: int) -> Json:
    """Returns the token counts and the cost, which is not rounded to 32 bits [recorded 2026-08]."""
    usage = Usage(num_tokens, 0)
    return UsageDetails.of(spec).with_neurons(usage, spec.price.of(usage))


def _cost(spec: ModelSpec, num_tokens: int) -> Json:
    return {
        "cost_metric_name_1": "input_tokens",
        "cost_metric_value_1": num_tokens,
        "neurons": spec.price.of(Usage(num_tokens, 0)),
    }


def _base64(vector: Sequence[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
