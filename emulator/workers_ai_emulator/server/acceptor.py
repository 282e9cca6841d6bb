"""Accepts connections in a thread of its own, and responds to health checks in that thread.

On the main event loop, a health check would take seconds while a thousand clients send requests.
The loop accepts only one connection per iteration, and each iteration takes long under load.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import re
import socket
import threading
import time
from collections.abc import Callable
from email.utils import formatdate

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from workers_ai_emulator.server.warnings import RepeatedWarning
from workers_ai_emulator.wire import endpoints

log = logging.getLogger(__name__)

# How many bytes of a request the thread reads to find out whether it is a health check.
_NUM_PEEKED = 4096
# How many new connections the thread accepts in one iteration of its event loop.
_NUM_ACCEPTED_AT_ONCE = 64
_TICK_S = 1.0
# Seconds until the next attempt after the operating system has refused to accept a connection.
_PAUSE_S = 0.1
# Matches the head of a health check. A request with a body, or with a header that asks for more
# than a response, is not one.
_HEALTH_CHECK = re.compile(
    rb"GET (%s|%s) HTTP/1\.1\r\n"
    rb"((?!(?i:content-length|transfer-encoding|upgrade|expect)[ \t]*:)[^\r\n]+\r\n)*\r\n"
    % (endpoints.HEALTHZ.path.encode(), endpoints.READYZ.path.encode())
)


class Acceptor:
    """A thread that accepts connections, and waits until each client sends its first request.

    If the request is a health check (`healthz` or `readyz`), the ASGI application `health_app`
    responds in the thread, and the connection is then closed. For any other request, the thread
    calls `hand_over` with the connection, from which the request has not been read yet.

    The thread closes a connection if its client sends nothing for `silence_limit_s` seconds. If
    more than `limit` clients have sent nothing yet, it closes the oldest of their connections. It
    calls `on_tick` once a second.
    """

    def __init__(
        self,
        listener: socket.socket,
        health_app: ASGIApp,
        hand_over: Callable[[socket.socket], None],
        *,
        limit: int,
        silence_limit_s: float,
        on_tick: Callable[[], None],
    ) -> None:
        self._listener = listener
        self._hand_over = hand_over
        self._limit = limit
        self._silence_limit_s = silence_limit_s
        self._on_tick = on_tick
        self._config = uvicorn.Config(
            health_app,
            log_config=None,
            access_log=False,
            lifespan="off",
            proxy_headers=False,
            ws="none",
        )
        self._state = ServerState()
        # The connections whose clients have sent nothing yet, oldest first. Each value is the time
        # at which the connection was accepted.
        self._silent: dict[socket.socket, float] = {}
        self._opening: set[asyncio.Task[object]] = set()
        self._limit_warning = RepeatedWarning(log)
        self._accept_warning = RepeatedWarning(log)
        self._loop = asyncio.SelectorEventLoop()
        self._thread = threading.Thread(target=self._run, name="acceptor", daemon=True)

    def start(self) -> None:
        self._listener.setblocking(False)
        self._config.load()
        self._thread.start()

    def stop(self) -> None:
        """Stops the thread. Closes the listening socket and the connections without a request."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self) -> None:
        self._loop.call_soon(self._resume)
        self._loop.call_soon(self._tick)
        self._loop.run_forever()
        for connection in [self._listener, *self._silent]:
            connection.close()
        self._loop.close()

    def _tick(self) -> None:
        """Runs once a second. Closes connections whose clients have sent nothing for too long.

        Also calls `on_tick`, and updates the `date` header of the responses to health checks.
        """
        self._on_tick()
        self._state.default_headers = [(b"date", formatdate(usegmt=True).encode())]
        end = time.monotonic() - self._silence_limit_s
        for connection in [c for c, accepted in self._silent.items() if accepted < end]:
            self._take(connection).close()
        self._loop.call_later(_TICK_S, self._tick)

    def _resume(self) -> None:
        self._loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        for _ in range(_NUM_ACCEPTED_AT_ONCE):
            try:
                connection, _ = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                self._pause_after(error)
                return
            connection.setblocking(False)
            self._silent[connection] = time.monotonic()
            if not self._serve(connection):
                self._loop.add_reader(connection, self._serve, connection)
            if len(self._silent) > self._limit:
                self._close_oldest()

    def _close_oldest(self) -> None:
        """Closes the connection whose client has sent nothing for the longest time.

        If the request of this client has arrived by now, handles it instead.
        """
        oldest = next(iter(self._silent))
        if self._serve(oldest):
            return
        self._take(oldest).close()
        self._limit_warning.log(
            "%d connections are open on which no request has arrived, the most that `ulimit -n` "
            "allows: closed the oldest ones",
            self._limit,
        )

    def _pause_after(self, error: OSError) -> None:
        if error.errno == errno.ECONNABORTED:  # the client has already closed the connection
            return
        self._accept_warning.log("cannot accept a connection: %s", error.strerror)
        self._loop.remove_reader(self._listener)
        self._loop.call_later(_PAUSE_S, self._resume)

    def _serve(self, connection: socket.socket) -> bool:
        """Returns False if the client has sent nothing yet; otherwise handles the connection.

        If the client's request is a health check, responds in this thread. Any other request is
        handed over with its connection. If the client has disconnected, closes the connection.
        """
        try:
            head = connection.recv(_NUM_PEEKED, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:  # the client has reset the connection
            head = b""
        self._take(connection)
        if not head:
            connection.close()
        elif _HEALTH_CHECK.fullmatch(head):
            self._respond(connection)
        else:
            self._hand_over(connection)
        return True

    def _take(self, connection: socket.socket) -> socket.socket:
        """Stops waiting for the first request of the connection, and returns the connection."""
        self._loop.remove_reader(connection)
        del self._silent[connection]
        return connection

    def _respond(self, connection: socket.socket) -> None:
        opening = self._loop.connect_accepted_socket(self._create_protocol, connection)
        task = self._loop.create_task(opening)
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    def _create_protocol(self) -> _SingleRequestProtocol:
        return _SingleRequestProtocol(self._config, self._state, {}, self._loop)


class _SingleRequestProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol, changed to close the connection after the first response."""

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self.cycle.keep_alive = False
