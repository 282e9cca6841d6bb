"""Routes that `wrangler dev` calls when it starts a Worker with an AI binding.

An AI binding has no local mode, so wrangler creates a remote session through Cloudflare's API.
These routes return dummy values for the session. The session is never used, because the binding
calls this server instead. [seen on the wire: wrangler 4.86 and 4.164, remote-bindings/0.0.67]
"""

from __future__ import annotations

from fastapi import Response

from workers_ai_emulator.routes.router import EndpointRouter
from workers_ai_emulator.wire import endpoints
from workers_ai_emulator.wire.envelope import success
from workers_ai_emulator.wire.responses import JsonResponse

router = EndpointRouter()


@router.handles(endpoints.SESSION_TOKEN)
async def session_token() -> Response:
    return JsonResponse(success({"token": "local"}))


@router.handles(endpoints.SUBDOMAIN)
async def subdomain() -> Response:
    return JsonResponse(success({"subdomain": "local"}))


@router.handles(endpoints.PREVIEW_TOKEN)
async def preview_token() -> Response:
    return JsonResponse(success({"preview_token": "local"}))
