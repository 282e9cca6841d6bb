"""The routes of those parts of Cloudflare's API that the emulator does not have.

Each sends an error that names the part. Without these routes, the error would be the one for a
mistyped path.
"""

from __future__ import annotations

import re

from fastapi import Request, Response

from workers_ai_emulator.routes.router import EndpointRouter
from workers_ai_emulator.wire import endpoints
from workers_ai_emulator.wire.errors import API_NOT_EMULATED, METHOD_NOT_SUPPORTED, WireError
from workers_ai_emulator.wire.responses import error_response

_PROVIDER_URL = re.compile(r"gateways/[^/]+/url/[^/]+")  # of `endpoints.PROVIDER_URL`

router = EndpointRouter()


@router.handles(*endpoints.TO_MARKDOWN, *endpoints.MARKDOWN_FORMATS)
async def to_markdown(request: Request) -> Response:
    raise WireError(API_NOT_EMULATED, "ai/tomarkdown, which converts documents to Markdown")


@router.handles(*endpoints.FINETUNES, *endpoints.ONE_FINETUNE)
async def finetunes(request: Request) -> Response:
    raise WireError(API_NOT_EMULATED, "ai/finetunes, which has the LoRA adapters")


@router.handles(*endpoints.AUTORAG)
async def autorag(request: Request) -> Response:
    raise WireError(API_NOT_EMULATED, "AutoRAG")


@router.handles(*endpoints.AI_SEARCH)
async def ai_search(request: Request) -> Response:
    raise WireError(API_NOT_EMULATED, "AI Search")


@router.handles(*endpoints.GATEWAY_SETTINGS)
async def gateways(request: Request) -> Response:
    """Raises WireError. Returns an error if only the method is wrong, because `GET` is emulated."""
    if _PROVIDER_URL.fullmatch(request.path_params["operation"]):
        error = WireError(METHOD_NOT_SUPPORTED, request.method)
        return error_response(
            request.scope["path"], error, {"allow": endpoints.PROVIDER_URL.method}
        )
    raise WireError(API_NOT_EMULATED, "AI Gateway's settings and logs")
