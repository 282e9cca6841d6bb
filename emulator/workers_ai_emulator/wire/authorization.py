"""Authorization: checks the account id, and the token if the user has set accepted tokens."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.types import Scope

from workers_ai_emulator.wire.context import context_of
from workers_ai_emulator.wire.endpoints import Access
from workers_ai_emulator.wire.errors import (
    AUTHENTICATION_FAILED,
    CREDENTIALS_MISSING,
    GATEWAY_NOT_CONFIGURED,
    GATEWAY_UNAUTHORIZED,
    INVALID_ACCOUNT,
    NO_ROUTE,
    TOKEN_INVALID,
    TOKEN_MISSING,
    WireError,
    header_malformed,
    no_route_in_account,
)

log = logging.getLogger(__name__)

_BEARER = re.compile(r"Bearer +([\x21-\x7e]+)", re.IGNORECASE)
_KEY = re.compile(r"[\x21-\x7e]+")
_ACCOUNT_ID = re.compile(r"[0-9a-f]{32}")
_ACCOUNT_PATH = re.compile(r"/client/v4(?P<path>/accounts/(?P<id>[^/]+)(/.*)?)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Caller:
    """The parts of a request that authorization reads.

    `account_id` is the account in the path, None for a path without one. `is_trusted`: the client
    is on this machine, where bindings send no token.
    """

    headers: Mapping[str, str]
    path: str
    account_id: str | None
    is_trusted: bool

    @classmethod
    def of(cls, scope: Scope, account_id: str | None) -> Caller:
        """Returns the caller of the request with this ASGI scope."""
        is_trusted = not context_of(scope).needs_token and _is_local(scope.get("client"))
        return cls(Headers(scope=scope), scope["path"], account_id, is_trusted)


class Authorization:
    """Checks account ids and tokens. If `tokens` is empty, no request needs a token."""

    def __init__(self, tokens: frozenset[str]) -> None:
        self._tokens = [token.encode() for token in tokens]

    def check(self, access: Access, caller: Caller) -> None:
        """Raises WireError if the request does not pass the check of an endpoint.

        The account id is checked before the token [recorded for a request without a token].
        """
        match access:
            case Access.ACCOUNT:
                _check_account(caller)
                self._check_token(caller.headers)
            case Access.ACCOUNT_ID:
                _check_account(caller)
            case Access.GATEWAY:
                self._check_gateway(caller)
            case Access.CONTROL:
                self._check_token(caller.headers)
            case Access.BINDING if not caller.is_trusted:
                self._check_token(caller.headers)

    def token_id(self, headers: Mapping[str, str]) -> str:
        """Returns an id of 32 hexadecimal digits for the token in the `Authorization` header.

        Raises WireError: CREDENTIALS_MISSING, HEADER_MALFORMED, TOKEN_MISSING (for a key instead
        of a token) or TOKEN_INVALID.
        """
        authorization = headers.get("authorization")
        if self._tokens:
            token = _credential(headers)
            if authorization is None:
                raise WireError(TOKEN_MISSING)
            if not self._is_accepted(token):
                raise WireError(TOKEN_INVALID)
        return hashlib.sha256((authorization or "").encode()).hexdigest()[:32]

    def _check_token(self, headers: Mapping[str, str]) -> None:
        """Raises WireError unless the headers have an accepted token, or a key in its place."""
        if self._tokens and not self._is_accepted(_credential(headers)):
            raise WireError(AUTHENTICATION_FAILED)

    def _check_gateway(self, caller: Caller) -> None:
        """Checks AI Gateway's own header instead of `Authorization` if the request has it."""
        if not _is_account_id(caller.account_id):
            raise WireError(GATEWAY_NOT_CONFIGURED)
        header = caller.headers.get("cf-aig-authorization")
        try:
            self._check_token(caller.headers if header is None else {"authorization": header})
        except WireError as error:
            raise WireError(GATEWAY_UNAUTHORIZED) from error

    def _is_accepted(self, token: str) -> bool:
        # Constant time: the duration shows neither a token's beginning nor its place in the set.
        matches = [hmac.compare_digest(token.encode(), accepted) for accepted in self._tokens]
        return any(matches)


def no_route(path: str) -> WireError:
    """Returns the error for a path without an endpoint, which depends on the path's account id."""
    account = _ACCOUNT_PATH.fullmatch(path)
    if account and not _ACCOUNT_ID.fullmatch(account["id"]):
        return no_route_in_account(account["path"])
    return WireError(NO_ROUTE)


def _check_account(caller: Caller) -> None:
    if not _is_account_id(caller.account_id):
        raise WireError(INVALID_ACCOUNT, caller.path)


def _is_account_id(account_id: str | None) -> bool:
    if _ACCOUNT_ID.fullmatch(account_id or ""):
        return True
    log.warning("account id %r is refused: use any 32 hexadecimal digits (0-9, a-f)", account_id)
    return False


def _is_local(client: tuple[str, int] | None) -> bool:
    return client is not None and ipaddress.ip_address(client[0]).is_loopback


def _credential(headers: Mapping[str, str]) -> str:
    """Returns the token in `Authorization: Bearer TOKEN`, or the key in `X-Auth-User-Service-Key`
    or in `X-Auth-Email` with `X-Auth-Key`.

    Raises WireError if the headers have no credentials, or malformed ones.
    """
    if (authorization := headers.get("authorization")) is not None:
        bearer = _BEARER.fullmatch(authorization)
        if not bearer:
            raise header_malformed(6111, "Authorization")
        return bearer[1]
    key = headers.get("x-auth-user-service-key")
    if key is None and "x-auth-email" in headers:
        key = headers.get("x-auth-key")
    if key is None:
        raise WireError(CREDENTIALS_MISSING)
    if not _KEY.fullmatch(key):
        raise header_malformed(6103, "X-Auth-Key")
    return key
