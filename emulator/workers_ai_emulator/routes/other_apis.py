"""The routes of those parts of Cloudflare's API that the emulator does not have.

Each sends an error that names the part. Without these routes, the error would be the one for a
mistyped path.
"""

from __future__ import annotations

from http import HTTPStatus

from fastapi import Request, Response
from starlette.exceptions import HTTPException

from workers_ai_emulator.routes.router import EndpointRouter
from workers_ai_emulator.wire import endpoints
from workers_ai_emulator.wire.calls import allowed_methods
from workers_ai_emulator.wire.errors import API_NOT_EMULATED, WireError

router = EndpointRouter()


@router.handles(*endpoints.TO_MARKDOWN, *endpoints.MARKDOWN_FORMATS)
async def to_markdown(request: Request) -> Response:
    raise WireError(API_NOT_EMULATED, "ai/tomarkdown, which converts documents to Markdown")


@router.handles(*endpoints.AUTHORS)
async def authors(request: Request) -> Response:
    raise WireError(API_NOT_EMULATED, "ai/authors/search, which lists the authors of models")


@router.handles(*endpoints.FINETUNES, *endpoints.ONE_FINETUNE)
async def finetunes(request: Request) -> Response:
    raise WireError(API_NOT_EMULATED, "ai/finetunes, which has the LoRA adapters")


@router.handles(*endpoints.AUTORAG)
async def autorag(request: Request) -> Response:
    raise WireError(API_NOT_EMULATED, "AutoRAG")


@router.handles(*endpoints.AI_SEARCH)
async def ai_search(request: Request) -> Response:
    raise WireError(API_NOT_EMULATED, "AI Search")


@router.handles(*endpoints.VECTORIZE)
async def vectorize(request: Request) -> Response:
    raise WireError(API_NOT_EMULATED, "Vectorize, the vector database")


@router.handles(*endpoints.D1)
async def d1(request: Request) -> Response:
    raise WireError(API_NOT_EMULATED, "D1")


@router.handles(*endpoints.KV)
async def kv(request: Request) -> Response:
    raise WireError(API_NOT_EMULATED, "Workers KV")


@router.handles(*endpoints.R2)
async def r2(request: Request) -> Response:
    raise WireError(API_NOT_EMULATED, "R2")


@router.handles(*endpoints.BROWSER_RENDERING)
async def browser_rendering(request: Request) -> Response:
    raise WireError(API_NOT_EMULATED, "Browser Rendering")


@router.handles(*endpoints.GATEWAY_SETTINGS)
async def gateways(request: Request) -> Response:
    # One of these paths is also that of an emulated endpoint, with another method.
    if request.method not in allowed_methods(request.scope["path"]):
        raise HTTPException(HTTPStatus.METHOD_NOT_ALLOWED)
    raise WireError(API_NOT_EMULATED, "AI Gateway's settings and logs")
