"""Runs a decision model, for all endpoints that run models."""

from __future__ import annotations

from typing import Any

from fastapi import Request, Response

from workers_ai_emulator.models.spec import ModelSpec
from workers_ai_emulator.routes.numeric_result import run_backend
from workers_ai_emulator.tasks import decisions
from workers_ai_emulator.tasks.response_formats.decisions import decisions_result
from workers_ai_emulator.tasks.response_formats.response_format import Wrap
from workers_ai_emulator.wire.body import compute
from workers_ai_emulator.wire.context import context_of
from workers_ai_emulator.wire.responses import JsonResponse

# The texts of longer requests are tokenised in a thread, not on the event loop.
_MAX_CHARACTERS_ON_LOOP = 2**14


async def run(request: Request, spec: ModelSpec, inputs: Any, wrap: Wrap) -> Response:
    """Runs the model on `inputs`, and returns the answers to the questions in it.

    `wrap`: writes the body of the response. Raises WireError if the input is invalid or the
    questions cannot be answered.
    """
    context = context_of(request.scope)
    context.inputs = inputs
    task_request = await compute(context, decisions.parse, inputs, spec)
    texts = task_request.texts
    # The instructions of a question are in the text of each of its options.
    context.is_large |= sum(map(len, texts)) > _MAX_CHARACTERS_ON_LOOP
    result, headers = await run_backend(
        request, spec, texts, lambda backend: backend.decide(task_request, spec, context)
    )
    return JsonResponse(wrap(decisions_result(task_request, result)), headers=headers)
