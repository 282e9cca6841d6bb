"""Validates the input of a request for embeddings or for a ranking, and converts it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from workers_ai_emulator.engine.pooling import Pooling
from workers_ai_emulator.models.spec import ModelSpec
from workers_ai_emulator.models.validator import SchemaMismatch, json_types
from workers_ai_emulator.tasks.task_hint import task_hint
from workers_ai_emulator.wire.errors import BAD_INPUT, REQUEST_TOO_LARGE, WireError

# The maximum of the number of texts times the length of an embedding: more embeddings need
# gigabytes of memory. 4 million numbers are 3,906 embeddings of bge-m3, which need about 130 MB.
MAX_NUMBERS = 4_000_000
_DEFAULT_DIMENSIONS = 1024  # counted for a reranker, which may compare texts by embeddings
NO_TEXT = "required properties at '/' are 'text'"


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

    @property
    def num_numbers(self) -> int:
        return sum(map(len, self.vectors))


@dataclass(frozen=True, slots=True)
class Scores:
    """How well each of a request's texts answers its query, from 0 to 1, and the token count."""

    values: Sequence[float]
    num_tokens: int


def parse(body: Any, spec: ModelSpec) -> EmbeddingRequest:
    """Validates a model's input, and returns it as an EmbeddingRequest.

    Raises WireError with the service's error if the input is invalid, and REQUEST_TOO_LARGE if the
    embeddings of all texts together have more than MAX_NUMBERS numbers.
    """
    request = _parse(body, spec)
    assert spec.embedding is not None
    dimensions = spec.embedding.dimensions or _DEFAULT_DIMENSIONS
    if len(request.texts) * dimensions > MAX_NUMBERS:
        most = MAX_NUMBERS // dimensions
        raise WireError(
            REQUEST_TOO_LARGE, hint=f"a request of {spec.name} has at most {most} texts"
        )
    return request


def _parse(body: Any, spec: ModelSpec) -> EmbeddingRequest:
    try:
        spec.validator.validate(body)
    except SchemaMismatch as error:
        raise WireError(BAD_INPUT, error, hint=task_hint(spec, body)) from error
    traits = spec.embedding
    if traits is None:  # the model generates text, and its schema has no required key
        raise WireError(BAD_INPUT, NO_TEXT, hint=task_hint(spec, body))
    if not isinstance(body, dict):  # the schema of Qwen3 has no required key
        raise _mismatch("", "object", body)
    truncates = traits.truncates or body.get("truncate_inputs") is True
    if traits.form in ("bge-m3", "reranker") and body.get("contexts") is not None:
        query = _query(body)
        return EmbeddingRequest(
            texts=_contexts(body),
            pooling=traits.pooling,
            truncates=truncates,
            query=query,
            result="contexts" if query is None else "scores",
            top_k=_top_k(body) if traits.form == "reranker" else None,
        )
    texts = _qwen3_texts(body, spec) if traits.form == "qwen3" else _texts(body, "text")
    pooling = _pooling(body) if traits.form == "bge-en" else None
    return EmbeddingRequest(tuple(texts), pooling or traits.pooling, truncates)


# The service's validator does not check everything that the schemas say. For example, it accepts
# a list of numbers as `text`. We do not know what the service then sends. The functions below raise
# an error with the validator's text.


def _texts(body: Any, key: str) -> list[str]:
    """Returns the texts under a key of the body: one text, a list of texts, or none."""
    match body.get(key):
        case None:
            return []
        case str(text):
            return [text]
        case list(items):
            for index, item in enumerate(items):
                _check_string(item, f"{key}/{index}")
            return items
        case other:
            raise _mismatch(key, "string,array", other)


def _contexts(body: Any) -> tuple[str, ...]:
    """Returns the texts of the list `contexts`. An item without the key `text` is an empty text."""
    contexts = body["contexts"]
    if not isinstance(contexts, list):
        raise _mismatch("contexts", "array", contexts)
    for index, context in enumerate(contexts):
        if not isinstance(context, dict):
            raise _mismatch(f"contexts/{index}", "object", context)
        _check_string(context.get("text", ""), f"contexts/{index}/text")
    return tuple(context.get("text", "") for context in contexts)


def _query(body: Any) -> str | None:
    query: str | None = body.get("query")
    if query is not None:
        _check_string(query, "query")
    return query


def _top_k(body: Any) -> int | None:
    """Returns the maximum number of scores. The validator accepts numbers such as 2.0."""
    top_k = body.get("top_k")
    return None if top_k is None else int(min(top_k, len(body["contexts"])))


def _pooling(body: Any) -> Pooling | None:
    match body.get("pooling"):
        case None:
            return None
        case ("mean" | "cls") as name:
            return Pooling(name)
    raise WireError(BAD_INPUT, "'/pooling' must be 'mean' or 'cls'")


def _qwen3_texts(body: Any, spec: ModelSpec) -> list[str]:
    """Returns the texts of Qwen3's input: `text`, else `queries` and then `documents`.

    A query gets the instruction before it, as the model's documentation says. The order of queries
    and documents is inferred. Raises WireError if there is no text.
    """
    if texts := _texts(body, "text"):
        return texts
    instruction = body.get("instruction") or _QWEN3_INSTRUCTION
    queries = [f"Instruct: {instruction}\nQuery:{text}" for text in _texts(body, "queries")]
    if not (texts := queries + _texts(body, "documents")):
        raise WireError(BAD_INPUT, NO_TEXT, hint=task_hint(spec, body))
    return texts


# The default in the model's JSON schema.
_QWEN3_INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"


def _check_string(value: Any, path: str) -> None:
    if not isinstance(value, str):
        raise _mismatch(path, "string", value)


def _mismatch(path: str, expected: str, value: Any) -> WireError:
    """Returns the error for a value of the wrong type, with the text of the service's validator."""
    actual = ",".join(f"'{name}'" for name in json_types(value))
    return WireError(BAD_INPUT, f"Type mismatch of '/{path}', '{expected}' not in {actual}")
