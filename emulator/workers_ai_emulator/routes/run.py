"""The routes of `ai/run`, which use Workers AI's own formats for input and output."""

from __future__ import annotations

from typing import Any

from fastapi import Request, Response

from workers_ai_emulator.models.catalog import ModelSpec
from workers_ai_emulator.routes import batch, decisions, embeddings
from workers_ai_emulator.routes.gateway_response import through_named_gateway
from workers_ai_emulator.routes.generation import (
    body_of,
    find_model,
    generate,
    model_name,
    read_options,
)
from workers_ai_emulator.routes.router import EndpointRouter
from workers_ai_emulator.tasks import responses_request
from workers_ai_emulator.tasks.response_formats.choice import responses_format, run_format
from workers_ai_emulator.tasks.response_formats.response_format import Wrap
from workers_ai_emulator.wire import endpoints
from workers_ai_emulator.wire.envelope import success
from workers_ai_emulator.wire.errors import NO_ROUTE

router = EndpointRouter()


@router.handles(endpoints.RUN)
async def run_model_in_body(request: Request) -> Response:
    """Runs the model that the body names: `{"model": …, "input": {…}}`.

    AI Gateway's documentation of 2026 describes this form of the body. If the key `input` is
    missing, the whole body is the model's input. We do not know whether the service does the same.
    """
    body = await body_of(request)
    spec = find_model(request, model_name(body))
    is_nested = isinstance(body, dict) and "input" in body
    return await _through_named_gateway(request, spec, body, body["input"] if is_nested else body)


@router.handles(endpoints.RUN_MODEL)
async def run_model_in_path(request: Request) -> Response:
    """Runs the model in the path [developers.cloudflare.com/api/resources/ai/methods/run].

    Raises WireError with the error for unknown paths if no model has this name [recorded, 2026-10].
    """
    spec = find_model(request, request.path_params["model"], NO_ROUTE)
    body = await body_of(request)
    return await _through_named_gateway(request, spec, body, body)


async def _through_named_gateway(
    request: Request, spec: ModelSpec, body: Any, inputs: Any
) -> Response:
    read_options(request, body)
    is_batch = is_batch_call(request, spec, inputs)
    return await through_named_gateway(
        request, body, lambda: run(request, spec, inputs), is_cacheable=not is_batch
    )


async def run(
    request: Request,
    spec: ModelSpec,
    inputs: Any,
    wrap: Wrap = success,
    *,
    is_queued: bool = False,
) -> Response:
    """Runs the model, and returns a response in the model's format.

    `wrap`: writes the body of a response that is not a stream; by default, with Cloudflare's
    envelope. `is_queued`: whether the request's body has the option `queueRequest`; the query may
    have it, too. With `queueRequest`, the input is a batch, or the id of a batch.
    """
    is_queued = is_queued or _is_queued(request)
    if batch.is_batch_call(spec, inputs, is_queued=is_queued):
        return await batch.run_batch_call(
            request, spec, inputs, wrap, run_single, is_queued=is_queued
        )
    return await run_single(request, spec, inputs, wrap)


def is_batch_call(
    request: Request, spec: ModelSpec, inputs: Any, *, is_queued: bool = False
) -> bool:
    """Returns whether `run` with these arguments queues a batch or asks for the results of one."""
    return batch.is_batch_call(spec, inputs, is_queued=is_queued or _is_queued(request))


def _is_queued(request: Request) -> bool:
    return request.query_params.get("queueRequest") == "true"


async def run_single(request: Request, spec: ModelSpec, inputs: Any, wrap: Wrap) -> Response:
    """Runs the model on one input, and returns a response in the model's format."""
    if spec.decides:
        return await decisions.run(request, spec, inputs, wrap)
    if spec.embedding is not None:
        return await embeddings.run(request, spec, inputs, wrap)
    if responses_request.is_responses_request(inputs):
        choose_format = responses_format(inputs, wrap)
        return await generate(request, spec, inputs, choose_format, responses_request.parse)
    return await generate(request, spec, inputs, run_format(wrap))
