"""Stops the work for a response if the client disconnects before the response is complete."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from starlette.requests import ClientDisconnect
from starlette.types import Receive

_T = TypeVar("_T")


@asynccontextmanager
async def on_disconnect(receive: Receive, action: Callable[[], object]) -> AsyncIterator[None]:
    """Context manager that calls `action` if the client disconnects during the `with` block.

    Read the request's body before the block, because the context manager discards all messages from
    `receive` until the disconnect.
    """

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        action()

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()


async def while_connected(
    work: Awaitable[_T], receive: Receive, *, limit_s: float | None = None
) -> _T:
    """Waits for `work` and returns its result. Cancels `work` if the client disconnects.

    Raises ClientDisconnect if the client disconnects, or if something else cancels `work`, such as
    a shutdown. If `work` takes longer than `limit_s` seconds, cancels it and raises TimeoutError.
    If the caller's task is cancelled, `work` is cancelled with it.
    Read the request's body before the call, because this function discards all messages from
    `receive`.
    """
    running = asyncio.current_task()
    assert running is not None
    is_disconnected = False

    def cancel() -> None:
        nonlocal is_disconnected
        is_disconnected = True
        running.cancel()

    try:
        async with on_disconnect(receive, cancel), asyncio.timeout(limit_s):
            return await work
    except asyncio.CancelledError:
        if running.cancelling() > int(is_disconnected):  # the caller was cancelled, too
            raise
        raise ClientDisconnect from None
    finally:
        if is_disconnected:
            running.uncancel()
