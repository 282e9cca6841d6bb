"""Runs a decision model, for all endpoints that run models."""

from __future__ import annotations

from functools import partial
from typing import Any

from fastapi import Request, Response

from workers_ai_emulator.models.spec import ModelSpec
from workers_ai_emulator.routes.embeddings import backend_of, result_of, store
from workers_ai_emulator.tasks import decisions
from workers_ai_emulator.tasks.decisions import DecisionRequest
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
    # The instructions of a question are in the text of each of its options.
    context.is_large |= sum(map(len, task_request.texts)) > _MAX_CHARACTERS_ON_LOOP
    backend = backend_of(request)
    result, model = await result_of(request, backend.decide(task_request, spec, context))
    headers = store(context, spec, partial(_prompt, task_request), result.num_tokens, model)
    return JsonResponse(wrap(decisions_result(task_request, result)), headers=headers)


def _prompt(request: DecisionRequest) -> str:
    return "\n\n".join(request.texts)
