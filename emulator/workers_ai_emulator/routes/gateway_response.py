"""What AI Gateway adds to a call of a model: headers in the response, and the cache."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import Request, Response

from workers_ai_emulator.backends.choice import BACKEND_HEADER
from workers_ai_emulator.routes.gateway_cache import CacheOptions, CacheStatus
from workers_ai_emulator.routes.services import services_of
from workers_ai_emulator.wire.calls import MODEL_HEADER, SDK_VERSION_HEADER
from workers_ai_emulator.wire.context import context_of
from workers_ai_emulator.wire.gateway_headers import log_header

_GATEWAY_HEADER = "cf-aig-gateway-id"
# The headers that a response depends on. With the SDK 1.1 of a binding, the response is gzipped.
_DECISIVE_HEADERS = (MODEL_HEADER, BACKEND_HEADER, SDK_VERSION_HEADER)

Run = Callable[[], Awaitable[Response]]


async def respond(
    request: Request, content: Any, options: CacheOptions, run: Run, *, endpoint: Any = None
) -> Response:
    """Returns the cached response to an equal request, else that of `run`.

    Adds the headers of AI Gateway. `content`, `endpoint`: see `_cached`.
    """
    response, status = await _cached(request, content, options, run, endpoint)
    response.headers.update({"cf-aig-cache-status": status, **log_header()})
    return response


async def through_gateway(
    request: Request, body: Any, run: Run, *, is_cacheable: bool = True
) -> Response:
    """Returns the response of `run`, with what AI Gateway adds.

    `body`: the request's body. `is_cacheable`: whether the cache may be used if the request's
    headers ask for it.
    """
    options = CacheOptions.of(request.headers) if is_cacheable else CacheOptions()
    return await respond(request, body, options, run)


async def through_named_gateway(
    request: Request, body: Any, run: Run, *, is_cacheable: bool = True
) -> Response:
    """Returns the response of `run` to a request of Cloudflare's API.

    If a header of the request names a gateway, the request can use the gateway's cache
    [developers.cloudflare.com/ai-gateway/usage/rest-api]. The response then still has no headers of
    AI Gateway [recorded].
    """
    gateway_id = request.headers.get(_GATEWAY_HEADER)
    if gateway_id is None or not is_cacheable:
        return await run()
    options = CacheOptions.of(request.headers)
    response, _ = await _cached(request, body, options, run, gateway_id)
    return response


async def _cached(
    request: Request, content: Any, options: CacheOptions, run: Run, endpoint: Any
) -> tuple[Response, CacheStatus]:
    """Returns the cached response to an equal request, else that of `run`, and which it is.

    `content`: the parts of the request that determine its response, besides its path, its query
    and `_DECISIVE_HEADERS`. `endpoint`: the parts of `content` that name the gateway and the
    endpoint; they count even if the user's own cache key replaces the content.
    """
    cache = services_of(request).gateway_cache
    path, query = request.scope["path"], request.url.query
    headers = [request.headers.get(name) for name in _DECISIVE_HEADERS]
    place = [path, query, *headers, endpoint]
    return await cache.respond(context_of(request.scope), place, content, options, run)
