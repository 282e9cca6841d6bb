"""Runs a model for embeddings or for ranking, for all endpoints that run models."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from fastapi import Request, Response

from workers_ai_emulator.models.spec import ModelSpec
from workers_ai_emulator.routes.numeric_result import run_backend
from workers_ai_emulator.tasks import embeddings
from workers_ai_emulator.tasks.embeddings import EmbeddingRequest, Embeddings
from workers_ai_emulator.tasks.response_formats.embeddings import (
    embeddings_result,
    openai_embeddings,
    scores_result,
)
from workers_ai_emulator.tasks.response_formats.response_format import Wrap
from workers_ai_emulator.wire.body import compute
from workers_ai_emulator.wire.context import context_of
from workers_ai_emulator.wire.envelope import to_json
from workers_ai_emulator.wire.errors import BAD_INPUT, WireError
from workers_ai_emulator.wire.responses import JsonResponse

# More numbers are written as JSON in a thread, not on the event loop, where they take about 1 ms.
_MAX_NUMBERS_ON_LOOP = 20_000


async def run(request: Request, spec: ModelSpec, inputs: Any, wrap: Wrap) -> Response:
    """Runs the model on `inputs`, and returns the result in the model's own form.

    `wrap`: writes the body of the response. Raises WireError if the input is invalid or the
    embeddings cannot be computed.
    """
    context = context_of(request.scope)
    context.inputs = inputs
    task_request = await compute(context, embeddings.parse, inputs, spec)
    if task_request.result == "scores":
        scores, headers = await run_backend(
            request,
            spec,
            _texts(task_request),
            lambda backend: backend.rank(task_request, spec, context),
        )
        ranking = scores_result(spec, task_request, scores)
        return JsonResponse(wrap(ranking), headers=headers)
    result, headers = await _embed(request, spec, task_request)
    return await _respond(
        lambda: wrap(embeddings_result(spec, task_request, result)), result.num_numbers, headers
    )


async def run_openai(request: Request, spec: ModelSpec, body: Any) -> Response:
    """Runs the model on the texts in the key `input`, and returns OpenAI's form of embeddings.

    Raises WireError if the body is invalid. The service seems to ignore the key `encoding_format`
    (see docs/parity.md). `dimensions` and other keys are ignored, as the service ignores keys that
    a model's schema does not have.
    """
    inputs = body
    if isinstance(body, dict):
        inputs = {"text": body["input"]} if "input" in body else {}
    context = context_of(request.scope)
    context.inputs = inputs
    task_request = await compute(context, embeddings.parse, inputs, spec)
    is_base64 = _is_base64(body.get("encoding_format"))
    result, headers = await _embed(request, spec, task_request)
    return await _respond(
        lambda: to_json(openai_embeddings(spec, result, is_base64=is_base64)),
        result.num_numbers,
        headers,
    )


def _is_base64(encoding_format: Any) -> bool:
    """Returns whether embeddings are sent as base64. Raises WireError for an unknown format."""
    if encoding_format not in (None, "float", "base64"):
        raise WireError(BAD_INPUT, "'/encoding_format' must be 'float' or 'base64'")
    return bool(encoding_format == "base64")


async def _embed(
    request: Request, spec: ModelSpec, task_request: EmbeddingRequest
) -> tuple[Embeddings, dict[str, str]]:
    """Returns the embeddings, and the headers of the response."""
    context = context_of(request.scope)
    return await run_backend(
        request,
        spec,
        _texts(task_request),
        lambda backend: backend.embed(task_request, spec, context),
    )


def _texts(request: EmbeddingRequest) -> Sequence[str]:
    return request.texts if request.query is None else (request.query, *request.texts)


async def _respond(
    write: Callable[[], bytes], num_numbers: int, headers: dict[str, str]
) -> Response:
    """Returns the response with the body that `write` returns.

    Calls `write` in a thread if it writes many numbers, because that takes long.
    """
    is_short = num_numbers <= _MAX_NUMBERS_ON_LOOP
    body = write() if is_short else await asyncio.to_thread(write)
    return JsonResponse(body, headers=headers)
