"""uvicorn around the application: listens at once, loads meanwhile, ends within seconds."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Mapping
from types import FrameType

import uvicorn
from sse_starlette.sse import AppStatus

from workers_ai_emulator.app import create_app
from workers_ai_emulator.backends.choice import Backends
from workers_ai_emulator.errors import AddressUnavailable, StartError
from workers_ai_emulator.middleware.faults.rules import FaultRules
from workers_ai_emulator.models.catalog import ModelSpec
from workers_ai_emulator.runtime.model_manager import ModelManager
from workers_ai_emulator.settings import Settings

log = logging.getLogger(__name__)

_GRACE_S = 2.0  # for running answers to come to their end
_LIMIT_S = 4  # for a client that does not read


def listen(settings: Settings) -> socket.socket:
    """A listening socket. Raises AddressUnavailable with a next step."""
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
            f"({getattr(error, 'strerror', None) or error}): stop what uses it, or choose "
            "others with --host and --port (0 picks a free one)"
        ) from error
    return listener


class Server(uvicorn.Server):
    """Serves until a signal comes or the start fails; `failure` then says why.

    `on_ready` is called once with the base URL, when a model has generated a token.
    """

    def __init__(
        self,
        settings: Settings,
        catalog: Mapping[str, ModelSpec],
        listener: socket.socket,
        on_ready: Callable[[str], None],
    ) -> None:
        self._model_manager = ModelManager(settings, catalog)
        self._backends = Backends(settings, self._model_manager)
        self._faults = FaultRules()
        self._listener = listener
        self._on_ready = on_ready
        port = listener.getsockname()[1]
        self._base_url = f"http://{settings.base_url_host}:{port}/client/v4"
        self.failure: StartError | None = None
        AppStatus.enable_automatic_graceful_drain = False  # it would cut every stream at once
        super().__init__(
            uvicorn.Config(
                create_app(self._model_manager, self._backends, self._faults, settings),
                log_config=None,
                log_level="warning",
                access_log=False,
                server_header=False,
                ws="none",  # an upgrade is then a GET like any other
                timeout_keep_alive=75,
                timeout_graceful_shutdown=_LIMIT_S,
            )
        )

        logging.getLogger("uvicorn.error").addFilter(_is_news)

    def serve_until_stopped(self) -> None:
        """Run. Raises StartError if no model could be started."""
        self.run(sockets=[self._listener])
        if self.failure:
            raise self.failure

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._start = asyncio.create_task(self._start_engines())

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more connections; let answers end for a while, then cancel them."""
        self._start.cancel()
        self._faults.reset()  # what it holds back would wait for its client to leave
        asyncio.get_running_loop().call_later(_GRACE_S, self._backends.cancel_all)
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal ends the server in good order, with exit code 0."""
        self.should_exit = True

    async def _start_engines(self) -> None:
        try:
            await self._backends.start()
        except StartError as error:
            self._give_up(error)
        except Exception as error:
            log.exception("the start failed")
            self._give_up(StartError(f"the start failed: {error}"))
        else:
            self._on_ready(self._base_url)

    def _give_up(self, failure: StartError) -> None:
        self.failure = failure
        self.should_exit = True


def _is_news(record: logging.LogRecord) -> bool:
    """A stream that breaks off has a line of its own already, or is meant to."""
    return "without completing response" not in record.getMessage()
