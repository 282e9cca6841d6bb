"""Puts the application together: routes, our own endpoints, and an answer for every error."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp

from workers_ai_emulator import routes
from workers_ai_emulator.admin import control, dashboard, operations
from workers_ai_emulator.backends.choice import Backends
from workers_ai_emulator.errors import (
    EngineError,
    InternalError,
    MethodNotSupported,
    WeightsUnusable,
    WireError,
)
from workers_ai_emulator.middleware.binding_transports import BindingTransportMiddleware
from workers_ai_emulator.middleware.edge import EdgeMiddleware
from workers_ai_emulator.middleware.faults.middleware import FaultMiddleware
from workers_ai_emulator.middleware.faults.rules import FaultRules
from workers_ai_emulator.middleware.journal.history import History
from workers_ai_emulator.middleware.journal.middleware import Journal, JournalMiddleware
from workers_ai_emulator.middleware.neurons import NeuronBudget, NeuronMiddleware
from workers_ai_emulator.middleware.origin_guard import OriginGuardMiddleware
from workers_ai_emulator.middleware.recordings.middleware import RecordingMiddleware
from workers_ai_emulator.routes.access import no_route
from workers_ai_emulator.runtime.model_manager import ModelManager
from workers_ai_emulator.settings import Settings
from workers_ai_emulator.wire.authorization import Authorization
from workers_ai_emulator.wire.error_response import error_response

log = logging.getLogger(__name__)

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


def create_app(
    engines: ModelManager, backends: Backends, faults: FaultRules, settings: Settings
) -> ASGIApp:
    """The application around these backends, which it closes when it ends."""
    app = FastAPI(openapi_url=None, redirect_slashes=False, lifespan=_closing(backends))
    journal, neurons = Journal(), NeuronBudget(settings.daily_neurons)
    cassettes = RecordingMiddleware(app, settings)
    app.state.engines = engines
    app.state.backends = backends
    app.state.faults = faults
    app.state.neurons = neurons
    app.state.journal = journal
    app.state.history = History(engines, journal)
    app.state.authorization = Authorization(settings.api_tokens)
    app.state.resets = [
        backends.script.reset,
        faults.reset,
        neurons.reset,
        journal.clear,
        cassettes.reset,
    ]
    for router in (routes.router, operations.router, control.router, dashboard.router):
        app.include_router(router)
    app.add_exception_handler(WireError, _answer_api_error)
    app.add_exception_handler(HTTPException, _answer_http_error)
    app.add_exception_handler(ClientDisconnect, _answer_nobody)
    for broken in (EngineError, WeightsUnusable, Exception):
        app.add_exception_handler(broken, _answer_internal_error)
    layers = JournalMiddleware(
        FaultMiddleware(NeuronMiddleware(cassettes, neurons), faults), journal
    )
    return EdgeMiddleware(
        OriginGuardMiddleware(
            BindingTransportMiddleware(layers), settings.allowed_origins, settings.host
        )
    )


def _closing(backends: Backends) -> Lifespan:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await backends.close()

    return lifespan


async def _answer_api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, WireError)
    return error_response(request.scope["path"], error)


async def _answer_http_error(request: Request, error: Exception) -> Response:
    """What the router refused: no such path, or not with this method."""
    assert isinstance(error, HTTPException)
    path = request.scope["path"]
    if error.status_code == MethodNotSupported.status:
        return error_response(path, MethodNotSupported(request.method), error.headers)
    return error_response(path, no_route(path))


async def _answer_internal_error(request: Request, error: Exception) -> Response:
    log.error("%s: %s", type(error).__name__, error)
    return error_response(request.scope["path"], InternalError())


async def _answer_nobody(request: Request, error: Exception) -> Response:
    return Response(status_code=499)  # the client has left; nginx's code for that, never sent
