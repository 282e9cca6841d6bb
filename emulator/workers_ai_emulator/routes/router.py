"""A FastAPI router whose routes are rows of the endpoint table."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute

from workers_ai_emulator.routes.services import services_of
from workers_ai_emulator.wire.authorization import Caller
from workers_ai_emulator.wire.endpoints import Access, Endpoint

_Handler = TypeVar("_Handler", bound=Callable[..., Awaitable[Response]])


class EndpointRouter(APIRouter):
    """A FastAPI router whose routes get method, path and access check from the endpoint table."""

    def handles(self, endpoint: Endpoint) -> Callable[[_Handler], _Handler]:
        """Returns a decorator that registers a function as the handler of `endpoint`."""

        def add(handler: _Handler) -> _Handler:
            self.add_api_route(
                endpoint.path,
                handler,
                methods=[endpoint.method],
                route_class_override=_authorized_route(endpoint.access),
            )
            return handler

        return add


def _authorized_route(access: Access) -> type[APIRoute]:
    """Returns a class of FastAPI routes that perform the authorization check `access` first.

    The check is not a FastAPI dependency, because FastAPI resolves dependencies in every request,
    which takes longer than the check itself.
    """

    class AuthorizedRoute(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()

            async def authorize_and_handle(request: Request) -> Response:
                caller = Caller.of(request.scope, request.path_params.get("account_id"))
                services_of(request).authorization.check(access, caller)
                return await handle(request)

            return authorize_and_handle

    return AuthorizedRoute
