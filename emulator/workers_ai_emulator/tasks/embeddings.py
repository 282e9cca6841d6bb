"""Validates the input of a request for embeddings or for a ranking, and converts it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from workers_ai_emulator.engine.pooling import Pooling
from workers_ai_emulator.models.spec import ModelSpec
from workers_ai_emulator.models.validator import SchemaMismatch
from workers_ai_emulator.wire.errors import BAD_INPUT, WireError

_NO_TEXT = "required properties at '/' are 'text'"


@dataclass(frozen=True, slots=True)
class EmbeddingRequest:
    """The valid input of a request for embeddings or for a ranking.

    `texts`: the texts. `query`: the text with which they are compared; None if the embeddings
    themselves are the result. `pooling`: how the vectors of tokens become one vector.
    `truncates`: whether texts with more tokens than the model supports are cut; otherwise, they are
    refused. `result`: what the response contains: the embeddings of texts, the embeddings of the
    request's `contexts`, or scores of these contexts. `top_k`: the maximum number of scores; None:
    all.
    """

    texts: tuple[str, ...]
    pooling: Pooling
    truncates: bool
    query: str | None = None
    result: Literal["texts", "contexts", "scores"] = "texts"
    top_k: int | None = None


@dataclass(frozen=True, slots=True)
class Embeddings:
    """The embeddings of a request's texts, and the number of tokens of all texts.

    `vectors`: one normalised embedding for each text, in the order of the texts.
    """

    vectors: Sequence[Sequence[float]]
    num_tokens: int


@dataclass(frozen=True, slots=True)
class Scores:
    """How well each of a request's texts answers its query, from 0 to 1, and the token count."""

    values: Sequence[float]
    num_tokens: int


def parse(body: Any, spec: ModelSpec) -> EmbeddingRequest:
    """Validates a model's input, and returns it as an EmbeddingRequest.

    Raises WireError with the service's error if the input is invalid.
    """
    try:
        spec.validator.validate(body)
    except SchemaMismatch as error:
        raise WireError(BAD_INPUT, error) from error
    traits = spec.embedding
    if traits is None:  # the model generates text, and its schema has no required key
        raise WireError(BAD_INPUT, _NO_TEXT)
    truncates = traits.truncates or body.get("truncate_inputs") is True
    if "contexts" in body and traits.form in ("bge-m3", "reranker"):
        query = body.get("query")
        return EmbeddingRequest(
            texts=tuple(context.get("text") or "" for context in body["contexts"]),
            pooling=traits.pooling,
            truncates=truncates,
            query=query,
            result="contexts" if query is None else "scores",
            top_k=body.get("top_k"),
        )
    texts = _qwen3_texts(body) if traits.form == "qwen3" else _list(body.get("text"))
    pooling = Pooling(body["pooling"]) if body.get("pooling") else traits.pooling
    return EmbeddingRequest(tuple(texts), pooling, truncates)


def _qwen3_texts(body: Any) -> list[str]:
    """Returns the texts of Qwen3's input: `text`, else `queries` and then `documents`.

    A query gets the instruction before it, as the model's documentation says. The order of queries
    and documents is inferred. Raises WireError if there is no text.
    """
    if texts := _list(body.get("text")):
        return texts
    instruction = body.get("instruction") or _QWEN3_INSTRUCTION
    queries = [f"Instruct: {instruction}\nQuery:{text}" for text in _list(body.get("queries"))]
    if not (texts := queries + _list(body.get("documents"))):
        raise WireError(BAD_INPUT, _NO_TEXT)
    return texts


# The default in the model's JSON schema.
_QWEN3_INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"


def _list(value: Any) -> list[str]:
    if value is None:
        return []
    return [value] if isinstance(value, str) else [*value]
