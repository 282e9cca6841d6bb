"""Stops the work for a response if the client disconnects before the response is complete."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

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
    work: Coroutine[Any, Any, _T], receive: Receive, *, limit_s: float | None = None
) -> _T:
    """Runs `work` and returns its result. Cancels `work` if the client disconnects.

    Raises ClientDisconnect if the client disconnects. If `work` takes longer than `limit_s`
    seconds, cancels `work` and raises TimeoutError. Read the request's body before the call,
    because this function discards all messages from `receive`.
    """
    task = asyncio.create_task(work)
    try:
        async with on_disconnect(receive, task.cancel):
            done, _ = await asyncio.wait({task}, timeout=limit_s)
    finally:
        task.cancel()
    if not done:
        raise TimeoutError
    if task.cancelled():
        raise ClientDisconnect
    return task.result()
