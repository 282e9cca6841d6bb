"""The routes of AI Gateway that run models of Workers AI.

AI Gateway sends errors of Workers AI without Cloudflare's envelope.
"""

from __future__ import annotations

import secrets
import time
from typing import Any

from fastapi import Request, Response

from workers_ai_emulator.routes import openai, run
from workers_ai_emulator.routes.generation import body_of, find_model, model_name, read_options
from workers_ai_emulator.routes.router import EndpointRouter
from workers_ai_emulator.tasks.response_formats.choice import chat_format
from workers_ai_emulator.wire import endpoints
from workers_ai_emulator.wire.errors import INCOMPLETE_REQUEST, NO_SUCH_MODEL, WireError

_PROVIDER = "workers-ai/"
_BASE32 = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # the digits of ULIDs [Crockford's Base32]

router = EndpointRouter()


@router.handles(endpoints.GATEWAY_UNIVERSAL)
async def run_universal(request: Request) -> Response:
    """Runs the requests in the body, in their order, until one succeeds.

    [developers.cloudflare.com/ai-gateway/usage/universal]
    """
    return await universal(request)


@router.handles(endpoints.GATEWAY_COMPAT)
async def compat_chat_completions(request: Request) -> Response:
    """Runs OpenAI-compatible chat completions; the body names the model as `workers-ai/NAME`.

    [developers.cloudflare.com/ai-gateway]
    """
    return with_log_id(await _compat(request, await body_of(request)))


@router.handles(endpoints.GATEWAY_CHAT_COMPLETIONS)
async def chat_completions(request: Request) -> Response:
    return with_log_id(await openai.chat_completions(request))


@router.handles(endpoints.GATEWAY_COMPLETIONS)
async def completions(request: Request) -> Response:
    return with_log_id(await openai.completions(request))


@router.handles(endpoints.GATEWAY_EMBEDDINGS)
async def embeddings(request: Request) -> Response:
    return with_log_id(await openai.embeddings(request))


@router.handles(endpoints.GATEWAY_RUN_MODEL)
async def run_model(request: Request) -> Response:
    """Runs a model of Workers AI through AI Gateway.

    [developers.cloudflare.com/ai-gateway/providers/workersai]
    """
    spec = find_model(request, request.path_params["model"].removeprefix("run/"))
    body = await body_of(request)
    read_options(request, body)
    return with_log_id(await run.run(request, spec, body))


async def universal(request: Request) -> Response:
    """Runs the requests in the body in their order, and returns the first successful response.

    Each request in the body is `{"provider": …, "endpoint": …, "query": …}`. If all requests fail,
    raises the WireError of the last request.
    """
    body = await body_of(request)
    steps = body if isinstance(body, list) else [body]
    for number, step in enumerate(steps):
        try:
            response = with_log_id(await _run_step(request, step))
        except WireError:
            if number == len(steps) - 1:
                raise
        else:
            response.headers["cf-aig-step"] = str(number)
            return response
    raise WireError(INCOMPLETE_REQUEST, "provider")


async def _run_step(request: Request, step: Any) -> Response:
    match step:
        case {"provider": "workers-ai", "endpoint": "v1/chat/completions", "query": query}:
            return await openai.complete(request, query, chat_format)
        case {"provider": "workers-ai", "endpoint": "v1/embeddings", "query": query}:
            return await openai.embed(request, query)
        case {"provider": "compat", "endpoint": "chat/completions", "query": query}:
            return await _compat(request, query)
        case {"provider": "workers-ai", "endpoint": str(endpoint), "query": query}:
            spec = find_model(request, endpoint.removeprefix("run/"))
            return await run.run(request, spec, query)
        case {"provider": str(provider), "endpoint": str(endpoint)}:
            raise WireError(NO_SUCH_MODEL, f"{provider}/{endpoint}")
    raise WireError(INCOMPLETE_REQUEST, "provider")


async def _compat(request: Request, body: Any) -> Response:
    if not (name := model_name(body)).startswith(_PROVIDER):
        raise WireError(NO_SUCH_MODEL, name)  # the model belongs to another provider
    return await openai.complete(request, body, chat_format, prefix=_PROVIDER)


def with_log_id(response: Response) -> Response:
    """Adds the header `cf-aig-log-id` with a new ULID to the response, and returns the response.

    AI Gateway sends the id of its log entry in this header, as recorded from the service.
    """
    value = int(time.time() * 1000) << 80 | secrets.randbits(80)
    digits = [_BASE32[value >> shift & 31] for shift in range(125, -5, -5)]
    response.headers["cf-aig-log-id"] = "".join(digits)
    return response
