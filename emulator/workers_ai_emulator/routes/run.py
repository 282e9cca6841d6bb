"""The run endpoint: runs a model with its native input and output."""

from __future__ import annotations

from typing import Any

from fastapi import Request, Response

from workers_ai_emulator.models.catalog import ModelSpec
from workers_ai_emulator.routes.generation import body_of, find_model, generate, model_name
from workers_ai_emulator.routes.router import EndpointRouter
from workers_ai_emulator.tasks import text_generation
from workers_ai_emulator.tasks.response_formats import NativeFormat
from workers_ai_emulator.wire import endpoints
from workers_ai_emulator.wire.errors import BAD_INPUT, WireError

router = EndpointRouter()


@router.handles(endpoints.RUN)
async def run_model_in_body(request: Request) -> Response:
    """Runs the model in a body `{"model": …, "input": {…}}` [AI Gateway's documentation of 2026].

    The keys of the input may also be beside `model` [inferred].
    """
    body = await body_of(request)
    spec = find_model(request, model_name(body))
    is_nested = isinstance(body, dict) and "input" in body
    return await run(request, spec, body["input"] if is_nested else body)


@router.handles(endpoints.RUN_MODEL)
async def run_model_in_path(request: Request, model: str) -> Response:
    """Runs a model [developers.cloudflare.com/api/resources/ai/methods/run]."""
    spec = find_model(request, model)
    return await run(request, spec, await body_of(request))


async def run(
    request: Request,
    spec: ModelSpec,
    inputs: Any,
    response_format: NativeFormat | None = None,
    *,
    is_queued: bool = False,
) -> Response:
    """Runs the model, and responds in the given format, otherwise in the native one."""
    if is_queued or request.query_params.get("queueRequest") == "true":
        _refuse_batch(spec, inputs)
    return await generate(request, spec, inputs, response_format or NativeFormat())


def _refuse_batch(spec: ModelSpec, inputs: Any) -> None:
    """Refuses a batch request.

    A body with `requests` fails validation, because the schemas of these models do not have it. The
    error for a valid body is inferred.
    """
    text_generation.parse(inputs, spec)
    raise WireError(BAD_INPUT, f"model {spec.name} does not support queueRequest")
