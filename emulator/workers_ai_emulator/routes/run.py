"""The routes of `ai/run`, which use Workers AI's own formats for input and output."""

from __future__ import annotations

from typing import Any

from fastapi import Request, Response

from workers_ai_emulator.models.catalog import ModelSpec
from workers_ai_emulator.models.validator import SchemaMismatch
from workers_ai_emulator.routes import embeddings
from workers_ai_emulator.routes.generation import body_of, find_model, generate, model_name
from workers_ai_emulator.routes.router import EndpointRouter
from workers_ai_emulator.tasks import responses_request
from workers_ai_emulator.tasks.response_formats.choice import responses_format, run_format
from workers_ai_emulator.tasks.response_formats.response_format import Wrap
from workers_ai_emulator.wire import endpoints
from workers_ai_emulator.wire.envelope import success
from workers_ai_emulator.wire.errors import BAD_INPUT, WireError

# The keys of an input that is not a batch.
_SINGLE_KEYS = {"prompt", "messages", "input", "text", "query", "contexts"}

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
    return await run(request, spec, body["input"] if is_nested else body)


@router.handles(endpoints.RUN_MODEL)
async def run_model_in_path(request: Request) -> Response:
    """Runs the model in the path [developers.cloudflare.com/api/resources/ai/methods/run]."""
    spec = find_model(request, request.path_params["model"])
    return await run(request, spec, await body_of(request))


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
    envelope. `is_queued`: whether the request's body requests batch processing. Raises WireError if
    the client requests batch processing: if `is_queued` is True, if the query contains
    `queueRequest=true`, or if the input is a list of requests.
    """
    if is_queued or request.query_params.get("queueRequest") == "true" or _is_batch(inputs):
        _refuse_batch(spec, inputs)
    if spec.embedding is not None:
        return await embeddings.run(request, spec, inputs, wrap)
    if responses_request.is_responses_request(inputs):
        choose_format = responses_format(inputs, wrap)
        return await generate(request, spec, inputs, choose_format, responses_request.parse)
    return await generate(request, spec, inputs, run_format(wrap))


def _is_batch(inputs: Any) -> bool:
    """Returns whether a model's input is a list of requests, which some schemas accept."""
    return isinstance(inputs, dict) and "requests" in inputs and not inputs.keys() & _SINGLE_KEYS


def _refuse_batch(spec: ModelSpec, inputs: Any) -> None:
    """Raises the error for a batch request, because the emulator does not process batches.

    Validates the input first. If the input does not match the model's schema, raises the schema
    error. We do not know which error the service sends for an input that matches the schema.
    """
    try:
        spec.validator.validate(inputs)
    except SchemaMismatch as error:
        raise WireError(BAD_INPUT, error) from error
    raise WireError(BAD_INPUT, f"model {spec.name} does not support queueRequest")
