"""What `wrangler dev` asks the API for before it starts with a binding that has no local mode.

It wants a remote session, which it then needs for nothing here, since the binding is answered by
this server. [seen on the wire: wrangler 4.86 and 4.164, remote-bindings/0.0.67]
"""

from __future__ import annotations

from fastapi import Response

from workers_ai_emulator.routes.access import account_router
from workers_ai_emulator.wire.envelope import JsonResponse, success

router = account_router("/workers")


@router.get("/subdomain/edge-preview")
async def session_token() -> Response:
    return JsonResponse(success({"token": "local"}))


@router.get("/subdomain")
async def subdomain() -> Response:
    return JsonResponse(success({"subdomain": "local"}))


@router.post("/scripts/{script}/edge-preview")
async def preview_token() -> Response:
    return JsonResponse(success({"preview_token": "local"}))
