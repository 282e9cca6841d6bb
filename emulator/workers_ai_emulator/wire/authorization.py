"""Authorization: any caller may call, unless the user has set tokens that the server accepts."""

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
    """What authorization reads of a request.

    `account_id` is the one in the path; `is_trusted`: a binding on this machine, which has no
    token to send.
    """

    headers: Mapping[str, str]
    path: str
    account_id: str | None
    is_trusted: bool

    @classmethod
    def of(cls, scope: Scope, account_id: str | None) -> Caller:
        """The caller that sent this ASGI scope."""
        is_trusted = not context_of(scope).needs_token and _is_local(scope.get("client"))
        return cls(Headers(scope=scope), scope["path"], account_id, is_trusted)


class Authorization:
    """Checks callers against the accepted tokens. Without any token, every caller passes."""

    def __init__(self, tokens: frozenset[str]) -> None:
        self._tokens = [token.encode() for token in tokens]

    def check(self, access: Access, caller: Caller) -> None:
        """Raises the WireError that the service sends unless the caller has this access.

        The account id is checked first, then the token [recorded, without a token].
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

        Raises WireError: CREDENTIALS_MISSING, HEADER_MALFORMED, TOKEN_MISSING (a key is no token)
        or TOKEN_INVALID.
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
        """Reads `Authorization: Bearer TOKEN`, `X-Auth-Email` with `X-Auth-Key`, or
        `X-Auth-User-Service-Key`.
        """
        if self._tokens and not self._is_accepted(_credential(headers)):
            raise WireError(AUTHENTICATION_FAILED)

    def _check_gateway(self, caller: Caller) -> None:
        """AI Gateway reads a header of its own first, and has its own errors."""
        if not _is_account_id(caller.account_id):
            raise WireError(GATEWAY_NOT_CONFIGURED)
        own = caller.headers.get("cf-aig-authorization")
        try:
            self._check_token(caller.headers if own is None else {"authorization": own})
        except WireError as error:
            raise WireError(GATEWAY_UNAUTHORIZED) from error

    def _is_accepted(self, token: str) -> bool:
        # Compares in constant time, and always with all tokens.
        matches = [hmac.compare_digest(token.encode(), accepted) for accepted in self._tokens]
        return any(matches)


def no_route(path: str) -> WireError:
    """The error for a path that no endpoint has. It depends on the account id in the path."""
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
    log.warning("account id %r is refused: it takes any 32 digits of 0-9 and a-f", account_id)
    return False


def _is_local(client: tuple[str, int] | None) -> bool:
    return client is not None and ipaddress.ip_address(client[0]).is_loopback


def _credential(headers: Mapping[str, str]) -> str:
    """Returns the token or key in the headers. Raises WireError if there is none, or it is bad."""
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
