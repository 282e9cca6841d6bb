"""OpenAI's shapes, as Workers AI gives them: the same schemas and errors, another answer."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from workers_ai_emulator.routes.access import account_router, no_route
from workers_ai_emulator.routes.generation import find_model, generate, model_name, read_json
from workers_ai_emulator.tasks.response_formats import ChatCompletion, OpenAIFormat, TextCompletion

router = account_router("/ai/v1")
unserved = APIRouter(prefix=router.prefix)


@router.post("/chat/completions")
async def chat_completions(request: Request) -> Response:
    """[developers.cloudflare.com/workers-ai/configuration/open-ai-compatibility]."""
    return await complete(request, await read_json(request), ChatCompletion)


@router.post("/completions")
async def completions(request: Request) -> Response:
    """Not documented, but clients call it: everything about it is inferred."""
    return await complete(request, await read_json(request), TextCompletion)


@unserved.post("/{endpoint:path}")
async def nothing_else(request: Request) -> Response:
    """There is nothing else, but GET gets 7001 as on a route [recorded for /ai/v1/models]."""
    raise no_route(request.scope["path"])


async def complete(
    request: Request, body: Any, form: type[OpenAIFormat], *, prefix: str = ""
) -> Response:
    """Answer in OpenAI's form. `prefix` is what stands before the model's name."""
    name = model_name(body)
    spec = find_model(request, name.removeprefix(prefix))
    inputs = _inputs(body)
    options = inputs.get("stream_options") if isinstance(inputs, dict) else None
    include_usage = isinstance(options, dict) and options.get("include_usage") is True
    answer = form(spec.name, include_usage=include_usage)
    return await generate(request, spec, inputs, answer)


def _inputs(body: Any) -> Any:
    """What the model's schema sees. OpenAI's clients write null for "not set" [inferred]."""
    if not isinstance(body, dict):
        return body
    inputs = {key: value for key, value in body.items() if value is not None}
    if "max_completion_tokens" in inputs:
        inputs.setdefault("max_tokens", inputs["max_completion_tokens"])
    return inputs
