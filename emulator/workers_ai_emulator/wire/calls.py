"""What the layers around the application can tell of a call before anybody has read its body."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope

CREDENTIAL_HEADERS = (
    "authorization",
    "cf-aig-authorization",
    "x-auth-key",
    "x-auth-user-service-key",
    "x-auth-email",
    "cf-access-client-secret",
    "cf-access-jwt-assertion",
    "proxy-authorization",
    "api-key",
    "x-api-key",
    "cookie",
)

_ACCOUNT = r"/client/v4/accounts/(?P<account>[^/]+)"
_GATEWAY = r"/v1/(?P<account>[^/]+)/[^/]+"
_PATHS = [
    re.compile(pattern, re.DOTALL)
    for pattern in (
        rf"{_ACCOUNT}(?P<path>/ai/v1/(chat/)?completions)",
        rf"{_ACCOUNT}(?P<path>/ai/run(/(?P<model>.+))?)",
        rf"{_GATEWAY}(?P<path>/workers-ai/v1/(chat/)?completions)",
        rf"{_GATEWAY}(?P<path>/workers-ai/(run/)?(?P<model>.+))",
        rf"{_GATEWAY}(?P<path>(/compat/chat/completions)?)",
        r"(?P<path>/(ai-gateway/)?run)",
        r"(?P<path>/ai-gateway/universal/run/[^/]+)",
    )
]


@dataclass(frozen=True, slots=True)
class Call:
    """A call that makes text.

    `path` is without the account. `account_id` is None for a binding, which does not say it;
    `model` where only the body names it.
    """

    path: str
    account_id: str | None
    model: str | None


def call_of(scope: Scope) -> Call | None:
    """The call that a request is; None for every other request."""
    if scope["type"] != "http" or scope["method"] != "POST":
        return None
    for pattern in _PATHS:
        if match := pattern.fullmatch(scope["path"]):
            parts = match.groupdict()
            model = parts.get("model") or Headers(scope=scope).get("cf-consn-model-id")
            return Call(parts["path"], parts.get("account"), model)
    return None


async def read_body(receive: Receive, limit: int) -> tuple[bytes, Receive]:
    """The body, or as much of it as exceeds the limit, and a `receive` that gives it once more."""
    messages: list[Message] = []
    size = 0
    while size <= limit and (not messages or messages[-1].get("more_body", False)):
        messages.append(await receive())
        size += len(messages[-1].get("body", b""))
    body = b"".join(message.get("body", b"") for message in messages)
    messages.reverse()

    async def receive_again() -> Message:
        return messages.pop() if messages else await receive()

    return body, receive_again


async def while_connected(work: Coroutine[Any, Any, None], receive: Receive) -> None:
    """Do the work, or as much of it as comes before the client leaves. Raises what it raises.

    The request's body must have been read.
    """
    working = asyncio.create_task(work)
    leaving = asyncio.create_task(until_gone(receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        leaving.cancel()
        working.cancel()
    await asyncio.wait({working})
    if not working.cancelled():
        working.result()


async def until_gone(receive: Receive) -> None:
    """Return when the client has left. The request's body must have been read."""
    while (await receive())["type"] != "http.disconnect":
        pass
