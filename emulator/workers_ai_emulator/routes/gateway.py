"""The routes of AI Gateway that run models of Workers AI.

A Worker also reaches the endpoints of a provider with `env.AI.fetch()`. AI Gateway sends errors of
Workers AI without Cloudflare's envelope.
"""

from __future__ import annotations

from typing import Any

from fastapi import Request, Response

from workers_ai_emulator.models.spec import ModelSpec
from workers_ai_emulator.routes import openai, run
from workers_ai_emulator.routes.compat_list import entry_of
from workers_ai_emulator.routes.gateway_cache import CacheOptions
from workers_ai_emulator.routes.gateway_response import respond, through_gateway
from workers_ai_emulator.routes.generation import body_of, find_model, model_name, read_options
from workers_ai_emulator.routes.router import EndpointRouter
from workers_ai_emulator.routes.services import services_of
from workers_ai_emulator.tasks.response_formats.choice import chat_format, text_format
from workers_ai_emulator.wire import endpoints
from workers_ai_emulator.wire.context import context_of
from workers_ai_emulator.wire.envelope import to_json
from workers_ai_emulator.wire.errors import (
    GATEWAY_PROVIDER_FAILED,
    GATEWAY_PROVIDER_INVALID,
    INCOMPLETE_REQUEST,
    NO_SUCH_MODEL,
    WireError,
)
from workers_ai_emulator.wire.hints import provider_hint
from workers_ai_emulator.wire.responses import JsonResponse

_PROVIDER = "workers-ai/"
# The maximum number of requests in a universal request [inferred: the service documents no limit].
MAX_STEPS = 100
# The endpoints of OpenAI's API in a request of a universal request to Workers AI.
_OPENAI_STEPS = ("v1/chat/completions", "v1/completions", "v1/embeddings", "v1/responses")

router = EndpointRouter()


@router.handles(endpoints.GATEWAY_UNIVERSAL)
@router.handles(endpoints.GATEWAY_UNIVERSAL_SLASH)
async def run_universal(request: Request) -> Response:
    """Runs the requests in the body, in their order, until one succeeds.

    [developers.cloudflare.com/ai-gateway/usage/universal]
    """
    return await universal(request)


@router.handles(*endpoints.GATEWAY_COMPAT)
async def compat_chat_completions(request: Request) -> Response:
    """Runs OpenAI-compatible chat completions.

    The body names the model as `workers-ai/NAME` or `@cf/…`.

    [developers.cloudflare.com/ai-gateway]
    """
    body = await body_of(request)
    return await through_gateway(request, body, lambda: _compat(request, body))


@router.handles(*endpoints.GATEWAY_COMPAT_EMBEDDINGS)
async def compat_embeddings(request: Request) -> Response:
    """Computes embeddings; the body names the model as `workers-ai/NAME` or `@cf/…`.

    Cloudflare does not document this endpoint, but clients use it [karakeep#2698].
    """
    body = await body_of(request)
    return await through_gateway(request, body, lambda: _compat_embed(request, body))


@router.handles(endpoints.GATEWAY_COMPAT_MODELS)
async def compat_models(request: Request) -> Response:
    """Lists the served models in OpenAI's form."""
    specs = services_of(request).catalog.values()
    return JsonResponse(to_json({"object": "list", "data": [entry_of(spec) for spec in specs]}))


@router.handles(*endpoints.GATEWAY_CHAT_COMPLETIONS)
async def chat_completions(request: Request) -> Response:
    body = await body_of(request)
    return await through_gateway(request, body, lambda: openai.complete(request, body, chat_format))


@router.handles(*endpoints.GATEWAY_COMPLETIONS)
async def completions(request: Request) -> Response:
    body = await body_of(request)
    return await through_gateway(request, body, lambda: openai.complete(request, body, text_format))


@router.handles(*endpoints.GATEWAY_EMBEDDINGS)
async def embeddings(request: Request) -> Response:
    body = await body_of(request)
    return await through_gateway(request, body, lambda: openai.embed(request, body))


@router.handles(*endpoints.GATEWAY_RESPONSES)
async def responses(request: Request) -> Response:
    body = await body_of(request)
    return await through_gateway(request, body, lambda: openai.run_responses(request, body))


@router.handles(*endpoints.GATEWAY_RUN_MODEL)
async def run_model(request: Request) -> Response:
    """Runs a model of Workers AI through AI Gateway.

    [developers.cloudflare.com/ai-gateway/providers/workersai]
    """
    spec = find_model(request, request.path_params["model"].removeprefix("run/"))
    body = await body_of(request)
    read_options(request, body)
    is_batch = run.is_batch_call(request, spec, body)
    return await through_gateway(
        request, body, lambda: run.run(request, spec, body), is_cacheable=not is_batch
    )


async def universal(request: Request) -> Response:
    """Runs the requests in the body in their order, and returns the first successful response.

    Each request in the body is `{"provider": …, "endpoint": …, "query": …}`. If all requests fail,
    raises the WireError of the last request. Raises WireError for more than MAX_STEPS requests.
    """
    body = await body_of(request)
    steps = body if isinstance(body, list) else [body]
    if len(steps) > MAX_STEPS:
        what = f"a list takes at most {MAX_STEPS} requests, not {len(steps)}"
        raise WireError(INCOMPLETE_REQUEST, what)
    for number, step in enumerate(steps):
        context_of(request.scope).forget_run()
        try:
            response = await _through_step(request, step)
        except WireError:
            if number == len(steps) - 1:
                raise
        else:
            response.headers["cf-aig-step"] = str(number)
            return response
    raise WireError(INCOMPLETE_REQUEST, "provider")


async def _through_step(request: Request, step: Any) -> Response:
    """Runs a request of a universal request. Raises WireError if it fails."""
    if not isinstance(step, dict):
        raise WireError(INCOMPLETE_REQUEST, "provider")
    headers = step.get("headers")
    headers = headers if isinstance(headers, dict) else {}
    names = {name.lower(): value for name, value in headers.items()}
    options = CacheOptions.of({**request.headers, **names})
    if options.ttl_s is not None and _is_batch_step(request, step):
        options = CacheOptions()
    endpoint = [step.get("provider"), step.get("endpoint")]
    return await respond(
        request, step, options, lambda: _run_step(request, step), endpoint=endpoint
    )


def _is_batch_step(request: Request, step: dict[str, Any]) -> bool:
    match step:
        case {"provider": "workers-ai", "endpoint": str(endpoint), "query": query}:
            if endpoint in _OPENAI_STEPS:
                return False
            return run.is_batch_call(request, _model_of(request, endpoint), query)
    return False


def _model_of(request: Request, endpoint: str) -> ModelSpec:
    return find_model(request, endpoint.removeprefix("run/"))


async def _run_step(request: Request, step: dict[str, Any]) -> Response:
    match step:
        case {"provider": "workers-ai", "endpoint": "v1/chat/completions", "query": query}:
            return await openai.complete(request, query, chat_format)
        case {"provider": "workers-ai", "endpoint": "v1/completions", "query": query}:
            return await openai.complete(request, query, text_format)
        case {"provider": "workers-ai", "endpoint": "v1/embeddings", "query": query}:
            return await openai.embed(request, query)
        case {"provider": "workers-ai", "endpoint": "v1/responses", "query": query}:
            return await openai.run_responses(request, query)
        case {"provider": "compat", "endpoint": "chat/completions", "query": query}:
            return await _compat(request, query)
        case {"provider": "compat", "endpoint": "embeddings", "query": query}:
            return await _compat_embed(request, query)
        case {"provider": "workers-ai", "endpoint": str(endpoint), "query": query}:
            read_options(request, query)
            return await run.run(request, _model_of(request, endpoint), query)
        case {"provider": str(provider), "endpoint": str(endpoint)}:
            hint = provider_hint(provider)
            raise WireError(NO_SUCH_MODEL, f"{provider}/{endpoint}", hint=hint)
    raise WireError(INCOMPLETE_REQUEST, "provider")


async def _compat(request: Request, body: Any) -> Response:
    _check_provider(request, model_name(body))
    return await openai.complete(request, body, chat_format, prefix=_PROVIDER)


async def _compat_embed(request: Request, body: Any) -> Response:
    _check_provider(request, model_name(body))
    return await openai.embed(request, body, prefix=_PROVIDER)


def _check_provider(request: Request, name: str) -> None:
    """Checks the provider with which a model's name begins in a request to `compat`.

    The name of a model of Workers AI may have the provider `workers-ai/` [documented], or none
    [measured]. Raises WireError for other names. The errors are recorded; that a provider that is
    not emulated gets the error for an unknown one is our decision.
    """
    served = services_of(request).served
    if name.startswith((_PROVIDER, "@")) or served.serves_other_providers(name):
        return
    type = GATEWAY_PROVIDER_INVALID if "/" in name else GATEWAY_PROVIDER_FAILED
    hint = (
        f"models of compat that are emulated have names that begin with {_PROVIDER} or @; with "
        "--any-model, the stand-in model serves the names of other providers"
    )
    raise WireError(type, hint=hint)
