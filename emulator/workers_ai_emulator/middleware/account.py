"""Finds the account that a request names in a header or in a prefix of its path.

`wire/accounts.py` describes both ways. With the prefix, every client whose base URL can be set can
name an account, for example the AI binding of Miniflare, whose requests have no account id.
"""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from workers_ai_emulator.wire.accounts import (
    ACCOUNT_HEADER,
    ACCOUNT_MISTAKE,
    is_account_id,
    split_prefix,
)
from workers_ai_emulator.wire.context import context_of
from workers_ai_emulator.wire.errors import control_invalid
from workers_ai_emulator.wire.responses import error_response


class AccountMiddleware:
    """Stores the account that a request names in the request's context.

    Removes the prefix `/_emulator/accounts/ID` from the path. Sends an error if the named account
    is not an account id.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            whole_path, raw_path = scope["path"], scope.get("raw_path", b"")
            in_path, scope["path"] = split_prefix(whole_path)
            # The prefix has the same length in both paths: it needs no percent-encoding.
            scope["raw_path"] = raw_path[len(whole_path) - len(scope["path"]) :]
            account = Headers(scope=scope).get(ACCOUNT_HEADER) or in_path
            if account is not None and not is_account_id(account):
                error = control_invalid([ACCOUNT_MISTAKE.format(account)])
                await error_response(scope["path"], error)(scope, receive, send)
                return
            context_of(scope).account = account
        await self._app(scope, receive, send)
