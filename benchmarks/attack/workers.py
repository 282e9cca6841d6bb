"""Runs functions in separate processes, so that one client does not delay another."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import connection
from typing import Any, Generic, TypeVar

_T = TypeVar("_T")
_STOP_LIMIT_S = 5
# "spawn" starts a new interpreter, which inherits no sockets and no event loop.
_CONTEXT = multiprocessing.get_context("spawn")


class Worker(Generic[_T]):
    """A process that calls one function, and sends the result to the parent process."""

    def __init__(self, function: Callable[..., _T], *args: Any) -> None:
        self._results, sender = _CONTEXT.Pipe(duplex=False)
        self._process = _CONTEXT.Process(target=_run, args=(sender, function, args), daemon=True)
        self._process.start()
        sender.close()  # the child process has its own copy of `sender`

    @property
    def is_running(self) -> bool:
        """Whether the function is still running."""
        return self._process.is_alive() and not self._results.poll()

    def result(self) -> _T:
        """Waits for the function's result and returns it.

        Raises RuntimeError if the function failed. In that case, its process has printed a
        traceback.
        """
        try:
            value: _T = self._results.recv()
        except EOFError:
            raise RuntimeError(f"a client process failed: {self._process.name}") from None
        return value

    def stop(self) -> None:
        """Ends the process, if it still runs."""
        self._process.terminate()
        self._process.join(_STOP_LIMIT_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def _run(sender: connection.Connection, function: Callable[..., _T], args: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # on Ctrl-C, the parent process stops this process
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    _, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    sender.send(function(*args))


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)
