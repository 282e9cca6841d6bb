"""The threads that compile grammars. Other work never waits for them.

A grammar can take seconds to compile. In asyncio's pool of threads, a few such grammars would delay
all other work of the pool, such as the tokenising of long prompts.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from workers_ai_emulator.engine.errors import CapacityExceeded

_T = TypeVar("_T")

# With two threads, a grammar that was compiled before need not wait for one that is new and slow.
_NUM_THREADS = 2


class GrammarThreads:
    """Calls functions that compile grammars, on threads of its own.

    `max_wait_s`: how many seconds a function may wait for a free thread.
    """

    def __init__(self, *, max_wait_s: float = 10.0) -> None:
        self._max_wait_s = max_wait_s
        self._executor = ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="grammar")

    async def call(self, function: Callable[[], _T]) -> _T:
        """Calls a function on one of the threads, and returns its result or raises its error.

        If this coroutine is cancelled before the call has started, the function is never called.
        Raises CapacityExceeded if the function had to wait for a free thread for too long.
        """
        latest_s = time.monotonic() + self._max_wait_s
        future = self._executor.submit(partial(_call_before, latest_s, function))
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Ends the threads after all functions have returned. Does not wait for them.

        `call` must not be called afterwards.
        """
        self._executor.shutdown(wait=False)


def _call_before(latest_s: float, function: Callable[[], _T]) -> _T:
    """Calls a function. Raises CapacityExceeded if the time `latest_s` has passed."""
    if time.monotonic() > latest_s:
        raise CapacityExceeded("the grammars of other requests are being compiled")
    return function()
