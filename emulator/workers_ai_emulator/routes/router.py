"""A router whose routes are rows of the endpoint table."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from workers_ai_emulator.routes.services import services_of
from workers_ai_emulator.wire.authorization import Caller
from workers_ai_emulator.wire.endpoints import Endpoint
from workers_ai_emulator.wire.errors import control_invalid
from workers_ai_emulator.wire.validation import check_parameters

Handler = Callable[[Request], Awaitable[Response]]


class EndpointRouter:
    """A list of routes that get method, path and access check from the endpoint table."""

    def __init__(self) -> None:
        self.routes: list[Route] = []

    def handles(self, *endpoints: Endpoint) -> Callable[[Handler], Handler]:
        """Returns a decorator that registers a function as the handler of `endpoints`.

        The handler takes the request, whose `path_params` are the parameters in the path.
        """

        def add(handler: Handler) -> Handler:
            for endpoint in endpoints:
                route = Route(endpoint.path, _CheckedHandler(endpoint, handler))
                route.methods = {endpoint.method}  # Starlette would add HEAD to GET
                self.routes.append(route)
            return handler

        return add


class _CheckedHandler:
    """An ASGI application that calls `handler` after the checks of the endpoint.

    These are the authorization check and, if the endpoint refuses unknown query parameters, the
    check of their names.
    """

    def __init__(self, endpoint: Endpoint, handler: Handler) -> None:
        self._endpoint = endpoint
        self._handler = handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        caller = Caller.of(scope, request.path_params.get("account_id"))
        services_of(request).authorization.check(self._endpoint.access, caller)
        if self._endpoint.parameters is not None:
            try:
                check_parameters(request.query_params, self._endpoint.parameters)
            except ValueError as error:
                raise control_invalid(str(error).splitlines()) from error
        response = await self._handler(request)
        await response(scope, receive, send)
