"""Runs a blocking function in a daemon thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import ParamSpec, TypeVar, cast

_T = TypeVar("_T")
_P = ParamSpec("_P")


async def in_daemon_thread(function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Calls a function on a daemon thread and returns its result.

    A daemon thread does not delay the exit of the process. With `asyncio.to_thread`, the exit would
    wait until the function returns. That can take long while llama.cpp loads a model from a slow
    disk.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[_T] = loop.create_future()

    def settle(result: _T | None, error: Exception | None) -> None:
        if future.cancelled():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(cast(_T, result))

    def run() -> None:
        result, error = None, None
        try:
            result = function(*args, **kwargs)
        except Exception as raised:
            error = raised
        with suppress(RuntimeError):  # the event loop may be closed already
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=run, name=f"load-{function.__name__}", daemon=True).start()
    return await future
