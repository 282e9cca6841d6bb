"""The routes of AI Gateway that run models of Workers AI.

AI Gateway sends errors of Workers AI without Cloudflare's envelope.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import Request, Response

from workers_ai_emulator.routes import openai, run
from workers_ai_emulator.routes.gateway_cache import CacheOptions
from workers_ai_emulator.routes.generation import body_of, find_model, model_name, read_options
from workers_ai_emulator.routes.router import EndpointRouter
from workers_ai_emulator.routes.services import services_of
from workers_ai_emulator.tasks.response_formats.choice import chat_format, text_format
from workers_ai_emulator.wire import endpoints
from workers_ai_emulator.wire.calls import MODEL_HEADER
from workers_ai_emulator.wire.context import context_of
from workers_ai_emulator.wire.errors import INCOMPLETE_REQUEST, NO_SUCH_MODEL, WireError
from workers_ai_emulator.wire.gateway_headers import log_header

_PROVIDER = "workers-ai/"

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
    body = await body_of(request)
    return await _through(request, body, lambda: _compat(request, body))


@router.handles(endpoints.GATEWAY_CHAT_COMPLETIONS)
async def chat_completions(request: Request) -> Response:
    body = await body_of(request)
    return await _through(request, body, lambda: openai.complete(request, body, chat_format))


@router.handles(endpoints.GATEWAY_COMPLETIONS)
async def completions(request: Request) -> Response:
    body = await body_of(request)
    return await _through(request, body, lambda: openai.complete(request, body, text_format))


@router.handles(endpoints.GATEWAY_EMBEDDINGS)
async def embeddings(request: Request) -> Response:
    body = await body_of(request)
    return await _through(request, body, lambda: openai.embed(request, body))


@router.handles(endpoints.GATEWAY_RUN_MODEL)
async def run_model(request: Request) -> Response:
    """Runs a model of Workers AI through AI Gateway.

    [developers.cloudflare.com/ai-gateway/providers/workersai]
    """
    spec = find_model(request, request.path_params["model"].removeprefix("run/"))
    body = await body_of(request)
    read_options(request, body)
    return await _through(request, body, lambda: run.run(request, spec, body))


async def universal(request: Request) -> Response:
    """Runs the requests in the body in their order, and returns the first successful response.

    Each request in the body is `{"provider": …, "endpoint": …, "query": …}`. If all requests fail,
    raises the WireError of the last request.
    """
    body = await body_of(request)
    steps = body if isinstance(body, list) else [body]
    for number, step in enumerate(steps):
        try:
            response = await _through_step(request, step)
        except WireError:
            if number == len(steps) - 1:
                raise
        else:
            response.headers["cf-aig-step"] = str(number)
            return response
    raise WireError(INCOMPLETE_REQUEST, "provider")


async def respond(
    request: Request, content: Any, options: CacheOptions, run: Callable[[], Awaitable[Response]]
) -> Response:
    """Returns the cached response to an equal request, else that of `run`.

    Adds the headers of AI Gateway.

    `content`: the parts of the request, besides its path and its model header, that determine its
    response.
    """
    cache = services_of(request).gateway_cache
    key = [request.scope["path"], request.headers.get(MODEL_HEADER), content]
    account = context_of(request.scope).account
    response = await cache.respond(account, key, options, run)
    response.headers.update(log_header())
    return response


async def _through(request: Request, body: Any, run: Callable[[], Awaitable[Response]]) -> Response:
    return await respond(request, body, CacheOptions.of(request.headers), run)


async def _through_step(request: Request, step: Any) -> Response:
    headers = step.get("headers") if isinstance(step, dict) else None
    headers = headers if isinstance(headers, dict) else {}
    names = {name.lower(): value for name, value in headers.items()}
    options = CacheOptions.of({**request.headers, **names})
    return await respond(request, step, options, lambda: _run_step(request, step))


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
