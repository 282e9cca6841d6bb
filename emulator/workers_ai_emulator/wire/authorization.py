"""Who may call: everybody, as befits a local tool, unless the user chose tokens."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping

from workers_ai_emulator.errors import (
    AuthenticationFailed,
    CredentialsMissing,
    GatewayUnauthorized,
    HeaderMalformed,
    TokenInvalid,
    TokenMissing,
)

_BEARER = re.compile(r"Bearer +([\x21-\x7e]+)", re.IGNORECASE)
_KEY = re.compile(r"[\x21-\x7e]+")


class Authorization:
    """Checks a request's credentials against the tokens that the user chose."""

    def __init__(self, tokens: frozenset[str]) -> None:
        self._tokens = [token.encode() for token in tokens]

    def check(self, headers: Mapping[str, str]) -> None:
        """Let the request pass or raise what the service says.

        `Authorization: Bearer TOKEN`, or `X-Auth-Email` with `X-Auth-Key`, or
        `X-Auth-User-Service-Key`. Raises CredentialsMissing, HeaderMalformed or
        AuthenticationFailed.
        """
        if self._tokens and not self._is_known(_credential(headers)):
            raise AuthenticationFailed

    def check_gateway(self, headers: Mapping[str, str]) -> None:
        """The same for AI Gateway, which has a header of its own. Raises GatewayUnauthorized."""
        own = headers.get("cf-aig-authorization")
        try:
            self.check(headers if own is None else {"authorization": own})
        except (AuthenticationFailed, CredentialsMissing, HeaderMalformed) as error:
            raise GatewayUnauthorized from error

    def token_id(self, headers: Mapping[str, str]) -> str:
        """The id of the token in the `Authorization` header: 32 hexadecimal digits, made up.

        Raises CredentialsMissing, HeaderMalformed, TokenMissing (a key is no token) or
        TokenInvalid.
        """
        authorization = headers.get("authorization")
        if self._tokens:
            token = _credential(headers)
            if authorization is None:
                raise TokenMissing
            if not self._is_known(token):
                raise TokenInvalid
        return hashlib.sha256((authorization or "").encode()).hexdigest()[:32]

    def _is_known(self, token: str) -> bool:
        # Compared in constant time, and with all of them.
        matches = [hmac.compare_digest(token.encode(), known) for known in self._tokens]
        return any(matches)


def _credential(headers: Mapping[str, str]) -> str:
    """The token or key in the headers."""
    if (authorization := headers.get("authorization")) is not None:
        bearer = _BEARER.fullmatch(authorization)
        if not bearer:
            raise HeaderMalformed(6111, "Authorization")
        return bearer[1]
    key = headers.get("x-auth-user-service-key")
    if key is None and "x-auth-email" in headers:
        key = headers.get("x-auth-key")
    if key is None:
        raise CredentialsMissing
    if not _KEY.fullmatch(key):
        raise HeaderMalformed(6103, "X-Auth-Key")
    return key
