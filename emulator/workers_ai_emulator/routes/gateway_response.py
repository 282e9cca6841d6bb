"""Adds to a response what AI Gateway adds: its headers, and the cache."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import Request, Response

from workers_ai_emulator.backends.choice import BACKEND_HEADER
from workers_ai_emulator.routes.gateway_cache import CacheOptions
from workers_ai_emulator.routes.services import services_of
from workers_ai_emulator.wire.calls import MODEL_HEADER
from workers_ai_emulator.wire.context import context_of
from workers_ai_emulator.wire.gateway_headers import log_header

_GATEWAY_HEADER = "cf-aig-gateway-id"

Run = Callable[[], Awaitable[Response]]


async def respond(
    request: Request, content: Any, options: CacheOptions, run: Run, *, endpoint: Any = None
) -> Response:
    """Returns the cached response to an equal request, else that of `run`.

    Adds the headers of AI Gateway.

    `content`: the parts of the request that determine its response, besides its path, its query
    and the headers that name the model and the backend. `endpoint`: the parts of `content` that
    name the gateway and the endpoint; they count even if the user's own cache key replaces the
    content.
    """
    cache = services_of(request).gateway_cache
    path, query = request.scope["path"], request.url.query
    headers = [request.headers.get(name) for name in (MODEL_HEADER, BACKEND_HEADER)]
    place = [path, query, *headers, endpoint]
    response = await cache.respond(context_of(request.scope), place, content, options, run)
    response.headers.update(log_header())
    return response


async def through_gateway(
    request: Request, body: Any, run: Run, *, is_cacheable: bool = True, endpoint: Any = None
) -> Response:
    """Returns the response of `run`, with what AI Gateway adds.

    `body`: the request's body. `is_cacheable`: whether the cache may be used if the request's
    headers ask for it. `endpoint`: see `respond`.
    """
    options = CacheOptions.of(request.headers) if is_cacheable else CacheOptions()
    return await respond(request, body, options, run, endpoint=endpoint)


async def through_named_gateway(
    request: Request, body: Any, run: Run, *, is_cacheable: bool = True
) -> Response:
    """Returns the response of `run` to a request of Cloudflare's API.

    If a header of the request names a gateway, adds what AI Gateway adds.
    [developers.cloudflare.com/ai-gateway/usage/rest-api]
    """
    if (gateway_id := request.headers.get(_GATEWAY_HEADER)) is None:
        return await run()
    return await through_gateway(request, body, run, is_cacheable=is_cacheable, endpoint=gateway_id)
