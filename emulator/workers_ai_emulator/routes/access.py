"""Who calls, and from which account: checked before anything else, in the service's order."""

from __future__ import annotations

import ipaddress
import logging
import re
from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Depends, Request

from workers_ai_emulator.errors import (
    GatewayNotConfigured,
    InvalidAccount,
    NoRoute,
    NoRouteInAccount,
)

log = logging.getLogger(__name__)

_ACCOUNT_ID = re.compile(r"[0-9a-f]{32}")
_ACCOUNT_PATH = re.compile(r"/client/v4(?P<path>/accounts/(?P<id>[^/]+)(/.*)?)", re.DOTALL)


def check_account(request: Request) -> None:
    """Raises InvalidAccount unless the account id in the path has the right form."""
    if not _has_account(request):
        raise InvalidAccount(request.scope["path"])


def check_caller(request: Request) -> None:
    """The account first, then the token [recorded, without a token]. Raises what the front says."""
    check_account(request)
    request.app.state.authorization.check(request.headers)


def check_token(request: Request) -> None:
    """Our own endpoints show prompts and change answers. Raises what the front says."""
    request.app.state.authorization.check(request.headers)


def check_binding(request: Request) -> None:
    """A binding has no token, so where one is asked for, only this machine's may call.

    Raises what the front says.
    """
    if request.scope["state"].get("has_token") or not _is_local(request):
        request.app.state.authorization.check(request.headers)


def check_gateway_caller(request: Request) -> None:
    """The same on AI Gateway's paths. Raises GatewayNotConfigured or GatewayUnauthorized."""
    if not _has_account(request):
        raise GatewayNotConfigured
    request.app.state.authorization.check_gateway(request.headers)


def before(check: Callable[[Request], None]) -> Any:  # FastAPI does not name its type
    """The check as a route's dependency.

    FastAPI calls what is no coroutine in a thread, which takes a third of a millisecond.
    """

    async def checked(request: Request) -> None:
        check(request)

    return Depends(checked)


def account_router(path: str) -> APIRouter:
    """A router for paths below an account's `path`, open to callers who may call."""
    prefix = f"/client/v4/accounts/{{account_id}}{path}"
    return APIRouter(prefix=prefix, dependencies=[before(check_caller)])


def no_route(path: str) -> NoRoute:
    """The error for a path that nothing serves, which depends on the account id in it."""
    account = _ACCOUNT_PATH.fullmatch(path)
    if account and not _ACCOUNT_ID.fullmatch(account["id"]):
        return NoRouteInAccount(account["path"])
    return NoRoute()


def _has_account(request: Request) -> bool:
    account_id = request.path_params["account_id"]
    if _ACCOUNT_ID.fullmatch(account_id):
        return True
    log.warning("account id %r: it takes 32 digits of 0-9 and a-f, any", account_id)
    return False


def _is_local(request: Request) -> bool:
    return request.client is not None and ipaddress.ip_address(request.client.host).is_loopback
