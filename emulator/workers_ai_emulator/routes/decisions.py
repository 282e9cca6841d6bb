"""Runs a decision model, for all endpoints that run models."""

from __future__ import annotations

from typing import Any

from fastapi import Request, Response

from workers_ai_emulator.models.spec import ModelSpec
from workers_ai_emulator.routes.embeddings import backend_of, result_of, store
from workers_ai_emulator.tasks import decisions
from workers_ai_emulator.tasks.response_formats.decisions import decisions_result
from workers_ai_emulator.tasks.response_formats.response_format import Wrap
from workers_ai_emulator.wire.body import compute
from workers_ai_emulator.wire.context import context_of
from workers_ai_emulator.wire.responses import JsonResponse


async def run(request: Request, spec: ModelSpec, inputs: Any, wrap: Wrap) -> Response:
    """Runs the model on `inputs`, and returns the answers to the questions in it.

    `wrap`: writes the body of the response. Raises WireError if the input is invalid or the
    questions cannot be answered.
    """
    context = context_of(request.scope)
    context.inputs = inputs
    task_request = await compute(context, decisions.parse, inputs, spec)
    backend = backend_of(request)
    result, model = await result_of(request, backend.decide(task_request, spec, context))
    prompt = "\n\n".join(task_request.texts)
    headers = store(context, spec, lambda: prompt, result.num_tokens, model)
    return JsonResponse(wrap(decisions_result(task_request, result)), headers=headers)
