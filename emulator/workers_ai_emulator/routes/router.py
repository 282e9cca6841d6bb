"""Registers a handler function for each row of the endpoint table."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from fastapi import APIRouter, Depends, Request, Response

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
                dependencies=[_authorization(endpoint.access)],
            )
            return handler

        return add


def _authorization(access: Access) -> Any:  # FastAPI exports no type for `Depends(…)`
    """Returns a FastAPI dependency that performs the authorization check `access`.

    The dependency is an async function: FastAPI runs a sync function in a thread, which takes
    0.3 ms.
    """

    async def check(request: Request) -> None:
        caller = Caller.of(request.scope, request.path_params.get("account_id"))
        services_of(request).authorization.check(access, caller)

    return Depends(check)
