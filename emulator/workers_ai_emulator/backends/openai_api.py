"""Reads responses of servers with OpenAI's API: errors, model lists, embeddings. Does no I/O."""

from __future__ import annotations

import math
import re
from typing import Any, TypeGuard

from workers_ai_emulator.engine.errors import (
    CapacityExceeded,
    ContextTooLong,
    EngineError,
    RequestRejected,
)
from workers_ai_emulator.json_values import object_or_none

Json = dict[str, Any]

_MAX_MESSAGE = 1000  # characters; a server's error text is cut to this length

# These patterns find numbers in a server's error text about a prompt that is too long. _LIMIT finds
# the context length: OpenAI, vLLM and llama_cpp.server write "maximum context length is 512
# tokens", llama-server writes "context size (512 tokens)". Some servers write the number of prompt
# and completion tokens together, which _TOTAL finds. Other servers write the number of prompt
# tokens, which _PROMPT finds. If `max_tokens` alone exceeds the context length, vLLM writes
# "max_tokens=5000 cannot be greater than max_model_len=2048" instead, and SGLang
# "max_completion_tokens is too large: 5000. This model supports at most 2048 completion tokens".
_LIMIT = re.compile(
    r"context (?:length|window) (?:is|of) (?:only )?(\d+)|context size \((\d+)"
    r"|cannot be greater than max_model_len=(\d+)|supports at most (\d+) completion tokens"
)
_TOTAL = re.compile(
    r"requested (?:about |a total of )?(\d+) tokens|max_tokens=(\d+) cannot be greater"
    r"|max_completion_tokens is too large: (\d+)"
)
_PROMPT = re.compile(r"(\d+) (?:prompt|input) tokens|request \((\d+) tokens|resulted in (\d+)")


class UpstreamFailed(EngineError):
    """The upstream server is unreachable, rejects the API key, or sends an unusable response."""


def error_from(status: int, body: str, max_tokens: int) -> EngineError:
    """Converts an error response of the upstream server to an EngineError.

    `max_tokens`: the maximum number of completion tokens in the request.
    """
    message = one_line(_message(body))
    if status in (429, 503):
        return CapacityExceeded(f"answers {status}: {message}")
    if status in (400, 413, 422):
        return _context_exceeded(message, max_tokens) or RequestRejected(message)
    if status in (401, 403):
        return UpstreamFailed(f"rejects the key, check --upstream-api-key: {status} {message}")
    if status == 404:
        reason = "does not have the path or the model, check --upstream-url and --upstream-model"
        return UpstreamFailed(f"{reason}: 404 {message}")
    return UpstreamFailed(f"answers {status}: {message}")


def _context_exceeded(message: str, max_tokens: int) -> ContextTooLong | None:
    """Returns a ContextTooLong with the numbers in an upstream server's error text.

    Returns None if the text lacks the context length or the number of tokens.
    """
    limit, total, prompt = (pattern.search(message) for pattern in (_LIMIT, _TOTAL, _PROMPT))
    if limit and total:
        return ContextTooLong(_number(total), _number(limit), max_tokens)
    if limit and prompt:
        return ContextTooLong(_number(prompt) + max_tokens, _number(limit), max_tokens)
    return None


def _number(match: re.Match[str]) -> int:
    return int(next(filter(None, match.groups())))


def _message(body: str) -> str:
    """Returns the error text in the body of an error response.

    Different servers send the error text under different JSON keys. If the body has none of these
    keys, the error text is the whole body.
    """
    match object_or_none(body):
        case {"error": {"message": str(message)}} | {"error": str(message)}:
            return message
        case {"message": str(message)} | {"detail": str(message)}:
            return message
    return body or "nothing"


def one_line(text: str) -> str:
    """Returns the text as one line of at most 1,000 characters, without control characters."""
    line = " ".join(text[: 4 * _MAX_MESSAGE].split())[:_MAX_MESSAGE]
    return "".join(filter(str.isprintable, line))


def model_names(body: str) -> list[str]:
    """Returns the names of the models in `body`, the body of a response from `/models`.

    Raises UpstreamFailed if the body has no list of models.
    """
    match object_or_none(body):
        case {"data": [*models]}:
            names = [model.get("id") for model in models if isinstance(model, dict)]
            return [name for name in names if isinstance(name, str)]
    raise UpstreamFailed(
        f"sent no list of models, name one with --upstream-model: {one_line(body)}"
    )


def embeddings(body: str, num_texts: int) -> tuple[list[list[float]], int | None]:
    """Returns the embeddings in a response from `/embeddings`, and the number of tokens.

    `body`: the response's body. `num_texts`: the number of texts in the request. The number of
    tokens is None if the response does not contain it. Raises UpstreamFailed if the response does
    not have an embedding for each text, or if the embeddings have different lengths.
    """
    value = object_or_none(body) or {}
    items = value.get("data")
    vectors = _vectors(items) if isinstance(items, list) else []
    if len(vectors) != num_texts or len(set(map(len, vectors))) > 1:
        raise UpstreamFailed(f"sent no embedding for each of {num_texts} texts: {one_line(body)}")
    match value.get("usage"):
        case {"prompt_tokens": int(num_tokens)} if num_tokens >= 0:
            return vectors, num_tokens
    return vectors, None


def _vectors(items: list[Any]) -> list[list[float]]:
    """Returns the valid embeddings of a list, in the order of their key `index`."""
    objects = [item for item in items if isinstance(item, dict)]
    vectors: list[Any] = [item.get("embedding") for item in sorted(objects, key=_index)]
    return [[*map(float, vector)] for vector in vectors if _is_vector(vector)]


def _index(item: Json) -> int:
    index = item.get("index")
    return index if isinstance(index, int) else 0


def _is_vector(value: Any) -> TypeGuard[list[float]]:
    return isinstance(value, list) and bool(value) and all(map(_is_finite, value))


def _is_finite(value: Any) -> bool:
    try:
        return isinstance(value, int | float) and math.isfinite(value)
    except OverflowError:  # an integer that is larger than every float
        return False
