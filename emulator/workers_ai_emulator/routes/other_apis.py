"""The routes of those parts of Cloudflare's API that the emulator does not have.

Each sends an error that names the part. Without these routes, the error would be the one for a
mistyped path.
"""

from __future__ import annotations

from http import HTTPStatus

from fastapi import Request, Response
from starlette.exceptions import HTTPException

from workers_ai_emulator.routes.router import EndpointRouter, Handler
from workers_ai_emulator.wire import endpoints
from workers_ai_emulator.wire.calls import allowed_methods
from workers_ai_emulator.wire.errors import API_NOT_EMULATED, WireError

router = EndpointRouter()


# The rows of each part, and how the error names the part.
_PARTS = (
    (
        (*endpoints.TO_MARKDOWN, *endpoints.MARKDOWN_FORMATS),
        "ai/tomarkdown, which converts documents to Markdown",
    ),
    (endpoints.AUTHORS, "ai/authors/search, which lists the authors of models"),
    (
        (*endpoints.FINETUNES, *endpoints.ONE_FINETUNE),
        "ai/finetunes, which has the LoRA adapters",
    ),
    (endpoints.AUTORAG, "AutoRAG"),
    (endpoints.AI_SEARCH, "AI Search"),
    (endpoints.VECTORIZE, "Vectorize, the vector database"),
    (endpoints.D1, "D1"),
    (endpoints.KV, "Workers KV"),
    (endpoints.R2, "R2"),
    (endpoints.BROWSER_RENDERING, "Browser Rendering"),
)


def _refusal(part: str) -> Handler:
    """Returns a handler that raises the error for a part that is not emulated."""

    async def refuse(request: Request) -> Response:
        raise WireError(API_NOT_EMULATED, part)

    return refuse


for rows, part in _PARTS:
    router.handles(*rows)(_refusal(part))


@router.handles(*endpoints.GATEWAY_SETTINGS)
async def gateways(request: Request) -> Response:
    # One of these paths is also that of an emulated endpoint, with another method.
    if request.method not in allowed_methods(request.scope["path"]):
        raise HTTPException(HTTPStatus.METHOD_NOT_ALLOWED)
    raise WireError(API_NOT_EMULATED, "AI Gateway's settings and logs")
