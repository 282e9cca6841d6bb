"""Limits how many connections are open, and how long the server waits for their clients.

A client that sends half a request, or does not read its response, keeps a connection open. Without
limits, such clients could use all file descriptors of the process.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import socket
import sys
import time
from contextlib import suppress
from http import HTTPStatus

import uvicorn
from uvicorn.server import ServerState

from workers_ai_emulator.errors import StartError
from workers_ai_emulator.server.protocol import Protocol, TimeLimits, Wait, plain_response
from workers_ai_emulator.server.warnings import RepeatedWarning

if sys.platform != "win32":
    import resource

log = logging.getLogger(__name__)

_MAX_CONNECTIONS = 10_000
# How many file descriptors are kept free for files, the pipes of subprocesses and the listening
# socket.
_NUM_OTHER_FILES = 48
# How many files the process must be allowed to open: the other files, and some connections.
_MIN_FILES = _NUM_OTHER_FILES + 16
# How many bytes of a refused request are read and discarded.
_NUM_DISCARDED = 2**16


def connection_limit() -> int:
    """Returns how many connections may be open at the same time.

    Each connection needs a file descriptor. Therefore, this function first raises the process's
    limit of open files as far as the operating system allows, up to the number that we need. Raises
    StartError if this limit is so low that the server could not work.
    """
    wanted = _MAX_CONNECTIONS + _NUM_OTHER_FILES
    if sys.platform == "win32":  # Windows does not limit the open files of a process
        return _MAX_CONNECTIONS
    soft, hard = (
        wanted if limit == resource.RLIM_INFINITY else limit
        for limit in resource.getrlimit(resource.RLIMIT_NOFILE)
    )
    if soft < min(wanted, hard):
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))
            soft = min(wanted, hard)
    if soft < _MIN_FILES:
        raise StartError(
            f"this process may open only {soft} files, and the server needs {_MIN_FILES}: raise "
            "the limit, for example with `ulimit -n 1024`"
        )
    return min(soft, wanted) - _NUM_OTHER_FILES


class Connections:
    """The connections that the event loop serves; at most `limit` are open at the same time.

    If `limit` connections are open and another client connects, the server closes about 1 % of the
    connections: the ones on which it has waited longest for the client. If the server is not
    waiting for any client, the new connection gets status 503.
    """

    def __init__(
        self, config: uvicorn.Config, state: ServerState, limit: int, time_limits: TimeLimits
    ) -> None:
        self._config = config
        self._state = state
        self._limit = limit
        self._time_limits = time_limits
        self._opening: set[asyncio.Task[object]] = set()
        self._warning = RepeatedWarning(log)

    def open(self, connection: socket.socket) -> None:
        """Serves a new connection, from which no request has been read yet."""
        num_open = len(self._state.connections) + len(self._opening)
        if num_open >= self._limit and not self._make_room():
            _refuse(connection)
            return
        loop = asyncio.get_running_loop()
        opening = loop.create_task(loop.connect_accepted_socket(self._protocol, connection))
        self._opening.add(opening)
        opening.add_done_callback(self._opening.discard)

    def close_overdue(self) -> None:
        """Closes the connections on which the server has waited too long for the client."""
        for protocol in self._protocols:
            protocol.observe_reading()
        now = time.monotonic()
        for protocol in self._open:
            if protocol.is_overdue(self._time_limits, now):
                log.debug("closed a connection: waited too long (%s)", protocol.wait.name)
                protocol.close(HTTPStatus.REQUEST_TIMEOUT)

    def close_waiting(self) -> None:
        """Closes the connections on which the server is waiting for the client."""
        for protocol in self._open:
            if protocol.wait is not Wait.SERVER:
                protocol.close(HTTPStatus.SERVICE_UNAVAILABLE)

    def abort(self) -> None:
        """Closes all connections, and discards the bytes of responses that are not sent yet."""
        for protocol in self._protocols:
            protocol.abort()

    @property
    def _protocols(self) -> list[Protocol]:
        return [p for p in self._state.connections if isinstance(p, Protocol)]

    @property
    def _open(self) -> list[Protocol]:
        return [p for p in self._protocols if not p.is_ending]

    def _protocol(self) -> Protocol:
        return Protocol(self._config, self._state, {}, asyncio.get_running_loop())

    def _make_room(self) -> bool:
        """Closes connections to make room for a new one. Returns whether there is room now.

        Closes the connections on which the server has waited longest for the client. Closes about
        1 % of all connections at once, because a search in all connections for each new connection
        would take too much time.
        """
        num_surplus = len(self._open) + len(self._opening) - self._limit + 1
        if num_surplus <= 0:  # enough connections are ending
            return True
        waiting = [p for p in self._open if p.wait is not Wait.SERVER]
        num_closed = max(num_surplus, self._limit // 100)
        for protocol in heapq.nsmallest(num_closed, waiting, key=lambda p: p.wait_began):
            protocol.close(HTTPStatus.SERVICE_UNAVAILABLE)
        is_full = len(waiting) < num_surplus
        effect = "refused a new one" if is_full else "closed those whose clients were idle longest"
        self._warning.log(
            "%d connections are open, the most that `ulimit -n` allows: %s", self._limit, effect
        )
        return not is_full


def _refuse(connection: socket.socket) -> None:
    """Sends status 503, and closes the connection."""
    with suppress(OSError):
        # Reads the request, because the operating system resets a connection that is closed with
        # unread bytes; the client could then not read the response.
        connection.recv(_NUM_DISCARDED)
        connection.send(plain_response(HTTPStatus.SERVICE_UNAVAILABLE))
    connection.close()
