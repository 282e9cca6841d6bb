"""Routes that `wrangler dev` calls when it starts a Worker with an AI binding.

An AI binding has no local mode, so wrangler creates a remote session through Cloudflare's API.
These routes return dummy values for the session. The session is never used, because the binding
calls this server instead.

wrangler 4.72 and newer need only the session's token and the account's subdomain. wrangler 4.36 to
4.71 also need the session's URLs: if the URLs are missing, wrangler 4.36 to 4.51 print an error,
and wrangler 4.52 to 4.71 do not start. [seen on the wire: wrangler 4.36 to 4.164]
"""

from __future__ import annotations

from fastapi import Request, Response

from workers_ai_emulator.routes.router import EndpointRouter
from workers_ai_emulator.wire import endpoints
from workers_ai_emulator.wire.endpoints import Endpoint
from workers_ai_emulator.wire.envelope import success
from workers_ai_emulator.wire.responses import JsonResponse, json_response

_TOKEN = "local"
# A dummy URL. wrangler reads the session's host name from it, but does not connect to the host.
# Host names that end with `.invalid` never resolve.
_INSPECTOR = "wss://workers-ai-emulator.invalid/"

router = EndpointRouter()


@router.handles(endpoints.SESSION_TOKEN)
async def session_token(request: Request) -> Response:
    url = _url(request, endpoints.EXCHANGE_TOKEN)
    return JsonResponse(success({"token": _TOKEN, "exchange_url": url}))


@router.handles(endpoints.EXCHANGE_TOKEN)
async def exchange_token(request: Request) -> Response:
    """Returns the session's token and URLs, without the envelope of Cloudflare's API."""
    prewarm = _url(request, endpoints.PREWARM)
    return json_response({"token": _TOKEN, "prewarm": prewarm, "inspector_websocket": _INSPECTOR})


@router.handles(endpoints.PREWARM)
async def prewarm(request: Request) -> Response:
    return JsonResponse(success(None))


@router.handles(endpoints.SUBDOMAIN)
async def subdomain(request: Request) -> Response:
    return JsonResponse(success({"subdomain": "local"}))


@router.handles(endpoints.PREVIEW_TOKEN)
async def preview_token(request: Request) -> Response:
    return JsonResponse(success({"preview_token": _TOKEN}))


def _url(request: Request, endpoint: Endpoint) -> str:
    """Returns the endpoint's URL, with host, port and account id as in the request."""
    return str(request.base_url.replace(path=endpoint.path.format(**request.path_params)))
