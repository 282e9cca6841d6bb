"""Runs the application in uvicorn.

The server accepts connections while the models are still loading. After a signal such as SIGTERM,
it stops within a few seconds.
"""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import socket
import sys
from collections.abc import Callable, Mapping
from types import FrameType

import uvicorn
from sse_starlette.sse import AppStatus
from starlette.types import ASGIApp

from workers_ai_emulator.app import create_app, create_health_app
from workers_ai_emulator.errors import AddressUnavailable, CommandError, StartError
from workers_ai_emulator.models.catalog import ModelSpec
from workers_ai_emulator.routes.services import Services
from workers_ai_emulator.server.acceptor import Acceptor
from workers_ai_emulator.server.connections import Connections, connection_limit
from workers_ai_emulator.server.protocol import TimeLimits
from workers_ai_emulator.settings import Settings

log = logging.getLogger(__name__)

# Seconds from the beginning of the shutdown until the server cancels running generations. It then
# also closes the connections whose clients must still send or read something.
_CANCEL_AFTER_S = 2.0
# Seconds from the beginning of the shutdown until the server closes all open connections.
_ABORT_AFTER_S = 3.0
# Seconds from the beginning of the shutdown until uvicorn cancels responses that still run.
_CLOSE_AFTER_S = 4
# Python switches to another waiting thread after this many seconds. With Python's default of 0.005,
# health checks take several times as long under load.
_SWITCH_INTERVAL_S = 0.0005
# The garbage collection begins after this many allocations. With Python's default, 700, the
# collections take a third of the event loop's time while a thousand streams run.
_NUM_ALLOCATIONS = 10_000


def listen(settings: Settings) -> socket.socket:
    """Returns a socket that listens on the configured host and port.

    Raises AddressUnavailable if the address cannot be used, for example if the port is in use.
    """
    try:
        return _listener(settings.host, settings.port)
    # TypeError and UnicodeError: the host cannot be the name of a host, such as `ä..b`.
    except (OSError, OverflowError, TypeError, UnicodeError) as error:
        is_no_name = isinstance(error, TypeError | UnicodeError)
        reason = "this is not the name of a host" if is_no_name else error
        raise AddressUnavailable(
            f"cannot listen on {settings.host} port {settings.port} "
            f"({getattr(error, 'strerror', None) or reason}): {_next_step(error)}"
        ) from error


def _next_step(error: Exception) -> str:
    """Returns what the user can do about an address at which the server cannot listen."""
    number = getattr(error, "errno", None)
    is_no_host = isinstance(error, socket.gaierror | TypeError | UnicodeError)
    if is_no_host or number in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
        return "--host takes an address of this machine, such as 127.0.0.1, or 0.0.0.0 for all"
    if number == errno.EACCES:
        return "choose another port with --port (0 picks a free port)"
    return (
        "stop the program that uses it, or choose another address with --host and --port (0 picks "
        "a free port)"
    )


def _listener(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        if sys.platform != "win32":  # on Windows, two servers could then listen on the same port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(2048)
    except BaseException:
        listener.close()
        raise
    return listener


class Server(uvicorn.Server):
    """A uvicorn server that stops at a signal, or when the backends cannot start.

    Calls `on_ready` once, with the base URL, when the backends have started. `failure` is the error
    if the backends could not start or `on_ready` has failed, otherwise None.
    """

    def __init__(
        self,
        settings: Settings,
        catalog: Mapping[str, ModelSpec],
        listener: socket.socket,
        on_ready: Callable[[str], None],
        time_limits: TimeLimits | None = None,
    ) -> None:
        self._services = Services.create(settings, catalog)
        self._on_ready = on_ready
        port = listener.getsockname()[1]
        self._base_url = f"http://{settings.base_url_host}:{port}/client/v4"
        self.failure: CommandError | None = None
        super().__init__(_config(create_app(self._services)))
        limit, time_limits = connection_limit(), time_limits or TimeLimits()
        # The acceptor gets a quarter of the limit, the event loop a half. The last quarter is for
        # connections that the acceptor has handed over and the event loop has not opened yet.
        self._connections = Connections(self.config, self.server_state, limit // 2, time_limits)
        self._acceptor = Acceptor(
            listener,
            create_health_app(self._services),
            self._hand_over,
            limit=limit // 4,
            silence_limit_s=time_limits.silence,
            on_tick=self._services.heartbeat.tick,
        )

    def serve_until_stopped(self) -> None:
        """Runs the server until it stops.

        Raises StartError if the backends cannot start, and the CommandError of `on_ready` if it
        fails.
        """
        _configure_libraries()
        sys.setswitchinterval(_SWITCH_INTERVAL_S)
        gc.set_threshold(_NUM_ALLOCATIONS)
        self.run(sockets=[])  # none, because the acceptor accepts the connections
        if self.failure:
            raise self.failure

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._loop = asyncio.get_running_loop()
        self._acceptor.start()
        self._start = asyncio.create_task(self._start_backends())

    async def on_tick(self, counter: int) -> bool:
        """Records that the event loop is running, and closes connections of slow clients.

        uvicorn calls this method ten times a second.
        """
        self._services.heartbeat.beat()
        if counter % 10 == 0:
            self._connections.close_overdue()
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stops accepting connections, and ends requests that still run after a few seconds."""
        self._start.cancel()
        self._acceptor.stop()
        self._services.faults.reset()  # releases responses that a fault is delaying
        self._loop.call_later(_CANCEL_AFTER_S, self._services.backends.cancel_all)
        self._loop.call_later(_CANCEL_AFTER_S, self._connections.close_waiting)
        self._loop.call_later(_ABORT_AFTER_S, self._connections.abort)
        await super().shutdown(sockets)

    def _hand_over(self, connection: socket.socket) -> None:
        """Makes the event loop serve a connection. The acceptor calls this method in its thread."""
        self._loop.call_soon_threadsafe(self._connections.open, connection)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Makes the server stop with exit status 0 when a signal arrives.

        uvicorn's own handler would raise the signal again, so the exit status would not be 0.
        """
        self.should_exit = True

    async def _start_backends(self) -> None:
        try:
            await self._services.backends.start()
        except StartError as error:
            self._stop(error)
        except Exception as error:
            log.exception("the start failed")
            self._stop(StartError(f"the start failed: {error}"))
        else:
            # Excludes the objects that exist now from garbage collection. With them, a collection
            # would take a tenth of a second, in which no thread can run.
            gc.freeze()
            self._announce()

    def _announce(self) -> None:
        try:
            self._on_ready(self._base_url)
        except CommandError as error:
            self._stop(error)
        except BrokenPipeError:
            self._stop(StartError("the program that reads the base URL from stdout has exited"))

    def _stop(self, failure: CommandError) -> None:
        self.failure = failure
        self.should_exit = True


def _config(app: ASGIApp) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,  # the address of the client is never taken from `X-Forwarded-For`
        ws="none",  # uvicorn handles a WebSocket upgrade like any GET request
        timeout_keep_alive=75,
        timeout_graceful_shutdown=_CLOSE_AFTER_S,
    )


def _configure_libraries() -> None:
    """Sets process-wide options of sse-starlette and uvicorn. May be called more than once."""
    # True would make sse-starlette end all streams as soon as a signal arrives.
    AppStatus.enable_automatic_graceful_drain = False
    uvicorn_log = logging.getLogger("uvicorn.error")
    if _is_relevant not in uvicorn_log.filters:
        uvicorn_log.addFilter(_is_relevant)


def _is_relevant(record: logging.LogRecord) -> bool:
    """A filter for uvicorn's log. Returns False for messages about responses that we ended early.

    Such a message is not needed: the code that ended the response has logged the reason, or it has
    applied a fault that the user requested.
    """
    return "without completing response" not in record.getMessage()
