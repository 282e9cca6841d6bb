"""Checks the account id of a request and, if `--api-token` is set, its token."""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.types import Scope

from workers_ai_emulator.network import is_loopback
from workers_ai_emulator.wire.accounts import is_account_id
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
from workers_ai_emulator.wire.hosts import SERVICE_HOSTS, host_of, is_forwarded

log = logging.getLogger(__name__)

_BEARER = re.compile(r"Bearer +([\x21-\x7e]+)", re.IGNORECASE)
_KEY = re.compile(r"[\x21-\x7e]+")
_ACCOUNT_PATH = re.compile(r"/client/v4(?P<path>/accounts/(?P<id>[^/]+)(/.*)?)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Caller:
    """The parts of a request that the authorization check reads.

    `account_id`: the account id in the request's path, or None if the path contains no account id.
    `client`: the IP address and port of the client. It is None for requests of wrangler 3.20 to
    4.35, so that they do not count as local, and the server checks the token that they contain.
    """

    headers: Mapping[str, str]
    path: str
    account_id: str | None
    client: tuple[str, int] | None

    @classmethod
    def of(cls, scope: Scope, account_id: str | None) -> Caller:
        """Returns the `Caller` of a request, from its ASGI scope and the account id in its path."""
        client = None if context_of(scope).needs_token else scope.get("client")
        return cls(Headers(scope=scope), scope["path"], account_id, client)

    @property
    def is_local(self) -> bool:
        """Whether the request comes from a program on this machine.

        False for requests that a reverse proxy or a tunnel on this machine has forwarded, because
        the client may be on another machine. Forwarded requests are recognized by headers such as
        `X-Forwarded-For`, or by a host name that is not local.
        """
        if self.client is None or not is_loopback(self.client[0]):
            return False
        if is_forwarded(self.headers):
            return False
        host = host_of(f"//{self.headers.get('host', '')}")
        return not host or host in SERVICE_HOSTS or is_loopback(host)


class Authorization:
    """Checks the account ids and the tokens of requests.

    `tokens`: the accepted tokens. If the set is empty, requests need no token.
    `trusts_local_bindings`: whether AI bindings on this machine can send requests without a token.
    """

    def __init__(self, tokens: frozenset[str], *, trusts_local_bindings: bool = True) -> None:
        self._tokens = [token.encode() for token in tokens]
        self._trusts_local_bindings = trusts_local_bindings

    def check(self, access: Access, caller: Caller) -> None:
        """Raises WireError if the request does not pass the access check of its endpoint.

        Checks the account id before the token, in the same order as the service.
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
            case Access.BINDING if not (caller.is_local and self._trusts_local_bindings):
                self._check_binding(caller.headers)

    def token_id(self, headers: Mapping[str, str]) -> str:
        """Returns 32 hexadecimal digits that identify the token in the header `Authorization`.

        With `--api-token`, raises WireError if the header is missing or contains no accepted token.
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
        """Raises WireError if the headers contain no accepted token or API key.

        Accepts all requests if `--api-token` is not set.
        """
        if self._tokens and not self._is_accepted(_credential(headers)):
            raise WireError(AUTHENTICATION_FAILED)

    def _check_gateway(self, caller: Caller) -> None:
        """Raises WireError if a request to AI Gateway has a wrong account id or a wrong token.

        Reads the token from the header `cf-aig-authorization` if the request has this header, and
        otherwise from `Authorization`.
        """
        if not is_account_id(caller.account_id):
            raise WireError(GATEWAY_NOT_CONFIGURED)
        header = caller.headers.get("cf-aig-authorization")
        try:
            self._check_token(caller.headers if header is None else {"authorization": header})
        except WireError as error:
            raise WireError(GATEWAY_UNAUTHORIZED) from error

    def _check_binding(self, headers: Mapping[str, str]) -> None:
        try:
            self._check_token(headers)
        except WireError:
            log.warning(
                "refused a call of an AI binding without a token: it does not come from this "
                "machine, or --no-trust-local-bindings is set"
            )
            raise

    def _is_accepted(self, token: str) -> bool:
        # Compares the token with all accepted tokens in constant time, so that a client cannot
        # guess an accepted token from the duration of the check.
        matches = [hmac.compare_digest(token.encode(), accepted) for accepted in self._tokens]
        return any(matches)


def no_route(path: str) -> WireError:
    """Returns the error for a path that belongs to no endpoint.

    If the account id in the path is malformed, the response reports this mistake too.
    """
    account = _ACCOUNT_PATH.fullmatch(path)
    if account and not is_account_id(account["id"]):
        return no_route_in_account(account["path"])
    return WireError(NO_ROUTE)


def _check_account(caller: Caller) -> None:
    if not is_account_id(caller.account_id):
        raise WireError(INVALID_ACCOUNT, caller.path)


def _credential(headers: Mapping[str, str]) -> str:
    """Returns the token or the API key in the headers.

    Reads the token from `Authorization: Bearer TOKEN`. If this header is missing, reads the key
    from `X-Auth-User-Service-Key`. If that header is missing too, reads the key from `X-Auth-Key`,
    which is valid only together with `X-Auth-Email`. Raises WireError if the token or key is
    missing or malformed.
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
