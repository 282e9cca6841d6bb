"""Runs a model for embeddings or for ranking, for all endpoints that run models."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, TypeVar

from fastapi import Request, Response

from workers_ai_emulator.backends.backend import Backend
from workers_ai_emulator.backends.choice import BACKEND_HEADER
from workers_ai_emulator.backends.relayed import ReadyGeneration
from workers_ai_emulator.engine.errors import DeadlineExceeded
from workers_ai_emulator.engine.types import Chunk, FinishReason, StartedGeneration
from workers_ai_emulator.models.spec import ModelSpec
from workers_ai_emulator.routes.generation import model_headers
from workers_ai_emulator.routes.services import services_of
from workers_ai_emulator.tasks import embeddings
from workers_ai_emulator.tasks.embeddings import EmbeddingRequest, Embeddings
from workers_ai_emulator.tasks.response_formats.embeddings import (
    embeddings_result,
    openai_embeddings,
    scores_result,
)
from workers_ai_emulator.tasks.response_formats.response_format import Wrap
from workers_ai_emulator.tasks.response_formats.usage import UsageDetails
from workers_ai_emulator.wire.body import compute
from workers_ai_emulator.wire.context import CallContext, context_of
from workers_ai_emulator.wire.disconnect import while_connected
from workers_ai_emulator.wire.envelope import to_json
from workers_ai_emulator.wire.errors import BAD_INPUT, WireError, wire_errors
from workers_ai_emulator.wire.responses import JsonResponse

_T = TypeVar("_T")

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
        backend = backend_of(request)
        scores, model = await result_of(request, backend.rank(task_request, spec, context))
        headers = store(context, spec, partial(_texts, task_request), scores.num_tokens, model)
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
    backend = backend_of(request)
    result, model = await result_of(request, backend.embed(task_request, spec, context))
    headers = store(context, spec, partial(_texts, task_request), result.num_tokens, model)
    return result, headers


def _texts(request: EmbeddingRequest) -> str:
    texts = request.texts if request.query is None else (request.query, *request.texts)
    return "\n\n".join(texts)


def backend_of(request: Request) -> Backend:
    """Returns the backend of a request. Raises WireError if the server does not have it."""
    return services_of(request).backends.choose(request.headers.get(BACKEND_HEADER))


async def result_of(request: Request, work: Coroutine[Any, Any, _T]) -> _T:
    """Returns the result of `work`, which is cancelled if the client disconnects.

    Raises WireError if `work` fails or takes longer than the request's time limit.
    """
    limit_s = services_of(request).backends.request_timeout_s
    with wire_errors():
        try:
            return await while_connected(work, request.receive, limit_s=limit_s)
        except TimeoutError as error:
            raise DeadlineExceeded from error


def store(
    context: CallContext, spec: ModelSpec, prompt: Callable[[], str], num_tokens: int, model: str
) -> dict[str, str]:
    """Stores token count and prompt in the context, for the journal, the log and the neurons.

    `prompt`: returns the texts that the model has read. Returns the headers of the response.
    """
    chunks = [Chunk("", FinishReason.STOP, num_tokens=0)]
    ended = ReadyGeneration(chunks, num_prompt_tokens=num_tokens, fingerprint="")
    context.started = StartedGeneration(ended, model, prompt)
    context.model = spec.name
    return model_headers(context.started) | UsageDetails.of(spec).headers(ended.usage)


async def _respond(
    write: Callable[[], bytes], num_numbers: int, headers: dict[str, str]
) -> Response:
    """Returns the response with the body that `write` returns.

    Calls `write` in a thread if it writes many numbers, because that takes long.
    """
    is_short = num_numbers <= _MAX_NUMBERS_ON_LOOP
    body = write() if is_short else await asyncio.to_thread(write)
    return JsonResponse(body, headers=headers)
