"""AI Gateway's paths to Workers AI, on this server's port: the same answers, bare errors."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Request, Response

from emulator.errors import NoSuchModel
from emulator.routes import openai, run
from emulator.routes.callers import check_gateway_caller
from emulator.routes.generation import find_model, model_name, read_json
from emulator.tasks.answers import ChatCompletion, TextCompletion

PREFIX = "/v1/"
_PROVIDER = "workers-ai/"

router = APIRouter(
    prefix="/v1/{account_id}/{gateway_id}", dependencies=[Depends(check_gateway_caller)]
)


@router.post("/compat/chat/completions")
async def compat_chat_completions(request: Request) -> Response:
    """The model's name begins with its provider [developers.cloudflare.com/ai-gateway]."""
    body = await read_json(request)
    if not (name := model_name(body)).startswith(_PROVIDER):
        raise NoSuchModel(name)  # another provider's: there is no network to ask
    return await openai.complete(request, body, ChatCompletion, prefix=_PROVIDER)


@router.post("/workers-ai/v1/chat/completions")
async def chat_completions(request: Request) -> Response:
    return await openai.complete(request, await read_json(request), ChatCompletion)


@router.post("/workers-ai/v1/completions")
async def completions(request: Request) -> Response:
    return await openai.complete(request, await read_json(request), TextCompletion)


@router.post("/workers-ai/{model:path}")
async def run_model(request: Request, model: str) -> Response:
    """[developers.cloudflare.com/ai-gateway/providers/workersai]."""
    spec = find_model(request, model.removeprefix("run/"))
    return await run.run(request, spec, await read_json(request))
