"""Calls ASGI applications and middleware directly, without a server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

TIMEOUT_S = 10


def http_scope(
    path: str = "/", method: str = "POST", headers: Mapping[str, str] | None = None, **others: Any
) -> Scope:
    """Returns the ASGI scope of an HTTP request from a client on 127.0.0.1."""
    return {
        "type": "http",
        "http_version": "1.1",
        "method": method,
        "path": path,
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in (headers or {}).items()],
        "client": ("127.0.0.1", 5000),
        **others,
    }


def receiver(parts: Iterable[bytes] = (b"",), *, disconnects: bool = False) -> Receive:
    """Returns an ASGI `receive` function that returns the parts of a request body.

    After the last part, it returns a disconnect message if `disconnects` is true; otherwise it
    never returns.
    """
    messages: list[Message] = [
        {"type": "http.request", "body": part, "more_body": True} for part in parts
    ]
    if messages:
        messages[-1]["more_body"] = False

    async def receive() -> Message:
        if messages:
            return messages.pop(0)
        if not disconnects:
            await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    return receive


def call(
    app: ASGIApp, scope: Scope, parts: Iterable[bytes] = (b"",), *, disconnects: bool = False
) -> list[Message]:
    """Calls the application and returns the ASGI messages that it sends.

    `parts`: the parts of the request body. `disconnects`: whether the client disconnects after the
    last part.
    """
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def limited() -> None:
        async with asyncio.timeout(TIMEOUT_S):
            await app(scope, receiver(parts, disconnects=disconnects), send)

    asyncio.run(limited())
    return sent


def status_of(sent: list[Message]) -> int:
    """Returns the status of the response in these ASGI messages."""
    status: int = sent[0]["status"]
    return status


def headers_of(sent: list[Message]) -> dict[str, str]:
    """Returns the headers of the response in these ASGI messages."""
    return {name.decode(): value.decode() for name, value in sent[0]["headers"]}


def body_of(sent: list[Message]) -> bytes:
    """Returns the body of the response in these ASGI messages."""
    return b"".join(message.get("body", b"") for message in sent)


class Recorder:
    """An ASGI application that stores the scope of each call, and responds with `OK`."""

    def __init__(self, before_response: Callable[[Scope], object] = lambda scope: None) -> None:
        self.scopes: list[Scope] = []
        self._before_response = before_response

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scopes.append(scope)
        self._before_response(scope)
        if scope["type"] == "http":
            await PlainTextResponse("OK")(scope, receive, send)
