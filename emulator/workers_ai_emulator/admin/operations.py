"""Routes for operating the server: health, readiness, metrics, and the OpenAPI document."""

from __future__ import annotations

import os

from fastapi import Request, Response

from workers_ai_emulator import __version__
from workers_ai_emulator.routes.router import EndpointRouter
from workers_ai_emulator.routes.services import services_of
from workers_ai_emulator.wire import endpoints
from workers_ai_emulator.wire.responses import JsonResponse, json_response

router = EndpointRouter()
health_router = EndpointRouter()


@health_router.handles(endpoints.HEALTHZ)
async def healthz(request: Request) -> Response:
    """Returns 200 while the main event loop runs, even if no model is loaded.

    Returns 503 with the reason if the main event loop has been blocked for 30 seconds. Health
    checks are handled in another thread, so the main event loop does not delay them. The body also
    contains the process id: clients that expect another emulator at this port thereby notice it.
    """
    failure = services_of(request).heartbeat.failure
    body = {"status": failure or "alive", "pid": os.getpid()}
    return json_response(body, status=503 if failure else 200)


@health_router.handles(endpoints.READYZ)
async def readyz(request: Request) -> Response:
    """Returns 200 if the server can generate text, otherwise 503 with the reason.

    During start-up, returns 503 until a model has generated its first token. Later, returns 503
    while the main event loop is blocked, while an engine hangs or has failed, or while the upstream
    server does not respond. Health checks are handled in another thread, so the main event loop
    does not delay them.
    """
    services = services_of(request)
    status = services.heartbeat.failure or services.backends.status
    return json_response({"status": status}, status=200 if status == "ready" else 503)


@router.handles(endpoints.INFO)
async def info(request: Request) -> Response:
    """Returns which process this emulator is, when it started, and its settings without secrets.

    A client can thereby find out whether this is the emulator that it expects at this port.
    """
    services = services_of(request)
    return json_response(
        {
            "version": __version__,
            "pid": os.getpid(),
            "started_at": services.started_at.isoformat(timespec="seconds"),
            "settings": services.settings.to_json(),
        }
    )


@router.handles(endpoints.METRICS)
async def metrics(request: Request) -> Response:
    """Returns the numbers of slots, requests and tokens of each loaded model, for Prometheus."""
    # This import is slow, and most servers are never asked for metrics.
    from workers_ai_emulator.admin.metrics import CONTENT_TYPE, metrics_text

    return Response(metrics_text(services_of(request).models), media_type=CONTENT_TYPE)


@router.handles(endpoints.OPENAPI)
async def openapi(request: Request) -> Response:
    """Returns the OpenAPI document of this server."""
    return JsonResponse(services_of(request).served.openapi_document)
