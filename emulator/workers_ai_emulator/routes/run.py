"""The run endpoint: a model's own input and output."""

from __future__ import annotations

from typing import Any

from fastapi import Request, Response

from workers_ai_emulator.errors import BadInput
from workers_ai_emulator.models.catalog import ModelSpec
from workers_ai_emulator.routes.access import account_router
from workers_ai_emulator.routes.generation import find_model, generate, model_name, read_json
from workers_ai_emulator.tasks import text_generation
from workers_ai_emulator.tasks.response_formats import NativeFormat

router = account_router("/ai/run")


@router.post("")
async def run_model_in_body(request: Request) -> Response:
    """`{"model": …, "input": {…}}` [AI Gateway's documentation of 2026]; flat as well, inferred."""
    body = await read_json(request)
    spec = find_model(request, model_name(body))
    nested = isinstance(body, dict) and "input" in body
    return await run(request, spec, body["input"] if nested else body)


@router.post("/{model:path}")
async def run_model_in_path(request: Request, model: str) -> Response:
    """Run a model [developers.cloudflare.com/api/resources/ai/methods/run]."""
    spec = find_model(request, model)
    return await run(request, spec, await read_json(request))


async def run(
    request: Request,
    spec: ModelSpec,
    inputs: Any,
    answer: NativeFormat | None = None,
    *,
    is_queued: bool = False,
) -> Response:
    """Answer in the model's own form."""
    if is_queued or request.query_params.get("queueRequest") == "true":
        _refuse_batch(spec, inputs)
    return await generate(request, spec, inputs, answer or NativeFormat())


def _refuse_batch(spec: ModelSpec, inputs: Any) -> None:
    """A model that cannot batch has no `requests` in its schema, which then is what is said.

    What the service says to a body that is valid otherwise is not known [inferred].
    """
    text_generation.parse(inputs, spec)
    raise BadInput(f"model {spec.name} does not support queueRequest")
