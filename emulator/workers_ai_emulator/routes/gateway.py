"""AI Gateway's paths to Workers AI, on this server's port: the same answers, bare errors."""

from __future__ import annotations

import secrets
import time
from typing import Any

from fastapi import APIRouter, Request, Response

from workers_ai_emulator.errors import AiError, IncompleteRequest, NoSuchModel
from workers_ai_emulator.routes import openai, run
from workers_ai_emulator.routes.access import before, check_gateway_caller
from workers_ai_emulator.routes.generation import find_model, model_name, read_json
from workers_ai_emulator.tasks.response_formats import ChatCompletion

PREFIX = "/v1/"
_PROVIDER = "workers-ai/"
_BASE32 = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # Crockford's

router = APIRouter(
    prefix="/v1/{account_id}/{gateway_id}", dependencies=[before(check_gateway_caller)]
)


@router.post("")
async def run_universal(request: Request) -> Response:
    """[developers.cloudflare.com/ai-gateway/usage/universal]."""
    return await universal(request)


@router.post("/compat/chat/completions")
async def compat_chat_completions(request: Request) -> Response:
    """The model's name begins with its provider [developers.cloudflare.com/ai-gateway]."""
    body = await read_json(request)
    if not (name := model_name(body)).startswith(_PROVIDER):
        raise NoSuchModel(name)  # another provider's: there is no network to ask
    return logged(await openai.complete(request, body, ChatCompletion, prefix=_PROVIDER))


@router.post("/workers-ai/v1/chat/completions")
async def chat_completions(request: Request) -> Response:
    return logged(await openai.chat_completions(request))


@router.post("/workers-ai/v1/completions")
async def completions(request: Request) -> Response:
    return logged(await openai.completions(request))


@router.post("/workers-ai/{model:path}")
async def run_model(request: Request, model: str) -> Response:
    """[developers.cloudflare.com/ai-gateway/providers/workersai]."""
    spec = find_model(request, model.removeprefix("run/"))
    return logged(await run.run(request, spec, await read_json(request)))


async def universal(request: Request) -> Response:
    """The answer to the first of the body's steps that has one, or the error of the last.

    A step is `{"provider": …, "endpoint": …, "query": …}`.
    """
    body = await read_json(request)
    steps = body if isinstance(body, list) else [body]
    for number, step in enumerate(steps):
        try:
            answer = logged(await _run_step(request, step))
        except AiError:
            if number == len(steps) - 1:
                raise
        else:
            answer.headers["cf-aig-step"] = str(number)
            return answer
    raise IncompleteRequest("provider")


async def _run_step(request: Request, step: Any) -> Response:
    match step:
        case {"provider": "workers-ai", "endpoint": "v1/chat/completions", "query": query}:
            return await openai.complete(request, query, ChatCompletion)
        case {"provider": "workers-ai", "endpoint": str(endpoint), "query": query}:
            spec = find_model(request, endpoint.removeprefix("run/"))
            return await run.run(request, spec, query)
        case {"provider": str(provider), "endpoint": str(endpoint)}:
            raise NoSuchModel(f"{provider}/{endpoint}")
    raise IncompleteRequest("provider")


def logged(answer: Response) -> Response:
    """The answer with the id of its line in the gateway's log, a ULID [header recorded]."""
    value = int(time.time() * 1000) << 80 | secrets.randbits(80)
    digits = [_BASE32[value >> shift & 31] for shift in range(125, -5, -5)]
    answer.headers["cf-aig-log-id"] = "".join(digits)
    return answer
