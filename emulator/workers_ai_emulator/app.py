"""Assembles the ASGI application from the routes, the middleware and the error handlers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp

from workers_ai_emulator.admin import control, dashboard, operations
from workers_ai_emulator.middleware.account import AccountMiddleware
from workers_ai_emulator.middleware.binding_transports import BindingTransportMiddleware
from workers_ai_emulator.middleware.edge import EdgeMiddleware
from workers_ai_emulator.middleware.faults.middleware import FaultMiddleware
from workers_ai_emulator.middleware.journal.middleware import JournalMiddleware
from workers_ai_emulator.middleware.neurons import NeuronMiddleware
from workers_ai_emulator.middleware.origin_guard import OriginGuardMiddleware
from workers_ai_emulator.middleware.recordings.middleware import RecordingMiddleware
from workers_ai_emulator.routes import (
    accounts,
    binding,
    gateway,
    models,
    openai,
    other_apis,
    provider_url,
    remote_session,
    run,
    tokens,
)
from workers_ai_emulator.routes.services import Services
from workers_ai_emulator.wire.authorization import no_route
from workers_ai_emulator.wire.calls import allowed_methods
from workers_ai_emulator.wire.errors import INTERNAL_ERROR, METHOD_NOT_SUPPORTED, WireError
from workers_ai_emulator.wire.responses import disconnect_response, error_response

log = logging.getLogger(__name__)

ROUTERS = [
    *(part.router for part in (run, openai, models, accounts, tokens, gateway, binding)),
    *(part.router for part in (remote_session, provider_url, other_apis)),
    operations.health_router,
    *(part.router for part in (operations, control, dashboard)),
]


def create_app(services: Services) -> ASGIApp:
    """Returns the ASGI application, whose routes and middleware use `services`.

    When the application shuts down, it closes the backends.
    """
    routes = [route for router in ROUTERS for route in router.routes]
    api = FastAPI(routes=[*routes], openapi_url=None, redirect_slashes=False, lifespan=_lifespan)
    api.state.services = services
    api.add_exception_handler(WireError, _respond_to_wire_error)
    api.add_exception_handler(HTTPException, _respond_to_http_error)
    api.add_exception_handler(ClientDisconnect, _respond_to_disconnect)
    api.add_exception_handler(Exception, _respond_to_unexpected_error)
    return _wrap(api, _middleware(services))


def create_health_app(services: Services) -> ASGIApp:
    """Returns an ASGI application that has only the endpoints `healthz` and `readyz`.

    Its only middleware is EdgeMiddleware and OriginGuardMiddleware. The application can run in
    another thread than the application of `create_app`, because it only reads `services`.
    """
    routes = operations.health_router.routes
    api = FastAPI(routes=[*routes], openapi_url=None, redirect_slashes=False)
    api.state.services = services
    return _wrap(api, _middleware(services)[:2])


def _wrap(app: ASGIApp, layers: list[Middleware]) -> ASGIApp:
    """Wraps middleware around the application. The first middleware in the list is the outermost.

    The middleware is not registered with FastAPI, because registered middleware does not see the
    responses to unexpected errors.
    """
    for middleware in reversed(layers):
        app = middleware.cls(app, *middleware.args, **middleware.kwargs)
    return app


def _middleware(services: Services) -> list[Middleware]:
    """Returns the middleware of the application, the outermost first."""
    settings = services.settings
    hosts = settings.allowed_hosts | {settings.host}
    return [
        Middleware(EdgeMiddleware),
        Middleware(OriginGuardMiddleware, settings.allowed_origins, hosts),
        Middleware(AccountMiddleware),
        Middleware(BindingTransportMiddleware),
        Middleware(JournalMiddleware, services.journal),
        Middleware(FaultMiddleware, services.faults, services.has_scripted_faults),
        Middleware(NeuronMiddleware, services.neurons, services.price_of),
        Middleware(RecordingMiddleware, services.recordings, services.authorization),
    ]


@asynccontextmanager
async def _lifespan(api: FastAPI) -> AsyncIterator[None]:
    services: Services = api.state.services
    sampling = asyncio.create_task(services.history.record())
    try:
        yield
    finally:
        sampling.cancel()
        await services.batches.close()
        await services.backends.close()


async def _respond_to_wire_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, WireError)
    return error_response(request.scope["path"], error)


async def _respond_to_http_error(request: Request, error: Exception) -> Response:
    """Converts Starlette's 404 and 405 to Cloudflare's errors for unknown paths and methods."""
    assert isinstance(error, HTTPException)
    path = request.scope["path"]
    if error.status_code == METHOD_NOT_SUPPORTED.status:
        method_error = WireError(METHOD_NOT_SUPPORTED, request.method)
        return error_response(path, method_error, {"allow": ", ".join(allowed_methods(path))})
    return error_response(path, no_route(path))


async def _respond_to_unexpected_error(request: Request, error: Exception) -> Response:
    log.error("%s: %s", type(error).__name__, error)
    return error_response(request.scope["path"], WireError(INTERNAL_ERROR))


async def _respond_to_disconnect(request: Request, error: Exception) -> Response:
    return disconnect_response()
