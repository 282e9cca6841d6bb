"""Runs the application in uvicorn.

The server accepts connections while the models are still loading. After a signal such as SIGTERM,
it stops within a few seconds.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Mapping
from types import FrameType

import uvicorn
from sse_starlette.sse import AppStatus
from starlette.types import ASGIApp

from workers_ai_emulator.app import create_app
from workers_ai_emulator.errors import AddressUnavailable, StartError
from workers_ai_emulator.models.catalog import ModelSpec
from workers_ai_emulator.routes.services import Services
from workers_ai_emulator.settings import Settings

log = logging.getLogger(__name__)

# Seconds from the beginning of the shutdown until the server cancels running generations.
_CANCEL_AFTER_S = 2.0
# Seconds from the beginning of the shutdown until uvicorn cancels responses that still run.
_CLOSE_AFTER_S = 4


def listen(settings: Settings) -> socket.socket:
    """Returns a socket that listens on the configured host and port.

    Raises AddressUnavailable if that fails, for example because the port is in use.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
        listener.listen(2048)
    except (OSError, OverflowError) as error:
        listener.close()
        raise AddressUnavailable(
            f"cannot listen on {settings.host} port {settings.port} "
            f"({getattr(error, 'strerror', None) or error}): stop the program that uses it, "
            "or choose another address with --host and --port (0 picks a free port)"
        ) from error
    return listener


class Server(uvicorn.Server):
    """A uvicorn server that stops at a signal, or when the backends cannot start.

    Calls `on_ready` once, with the base URL, when the backends have started. `failure` is the error
    if the backends could not start, otherwise None.
    """

    def __init__(
        self,
        settings: Settings,
        catalog: Mapping[str, ModelSpec],
        listener: socket.socket,
        on_ready: Callable[[str], None],
    ) -> None:
        self._services = Services.create(settings, catalog)
        self._listener = listener
        self._on_ready = on_ready
        port = listener.getsockname()[1]
        self._base_url = f"http://{settings.base_url_host}:{port}/client/v4"
        self.failure: StartError | None = None
        super().__init__(_config(create_app(self._services)))

    def serve_until_stopped(self) -> None:
        """Runs the server until it stops. Raises StartError if the backends cannot start."""
        _configure_libraries()
        self.run(sockets=[self._listener])
        if self.failure:
            raise self.failure

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._start = asyncio.create_task(self._start_backends())

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stops accepting connections, and cancels the running generations two seconds later."""
        self._start.cancel()
        self._services.faults.reset()  # releases responses that a fault is delaying
        loop = asyncio.get_running_loop()
        loop.call_later(_CANCEL_AFTER_S, self._services.backends.cancel_all)
        await super().shutdown(sockets)

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
            self._on_ready(self._base_url)

    def _stop(self, failure: StartError) -> None:
        self.failure = failure
        self.should_exit = True


def _config(app: ASGIApp) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        ws="none",  # uvicorn handles a WebSocket upgrade like any GET request
        timeout_keep_alive=75,
        timeout_graceful_shutdown=_CLOSE_AFTER_S,
    )


def _configure_libraries() -> None:
    """Sets process-wide options of sse-starlette and uvicorn. May be called more than once."""
    # If this were True, sse-starlette would end all streams as soon as a signal arrives.
    AppStatus.enable_automatic_graceful_drain = False
    uvicorn_log = logging.getLogger("uvicorn.error")
    if _is_relevant not in uvicorn_log.filters:
        uvicorn_log.addFilter(_is_relevant)


def _is_relevant(record: logging.LogRecord) -> bool:
    """A filter for uvicorn's log. Returns False for messages about responses that we ended early.

    The code that ends such a response logs the reason itself, or it applies a requested fault.
    """
    return "without completing response" not in record.getMessage()
