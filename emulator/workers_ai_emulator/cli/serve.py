"""The command `serve`: starts the server, with settings from flags and environment variables."""

from __future__ import annotations

import errno
import logging
import socket
import sys

from workers_ai_emulator.cli.options import unknown_setting_variables, with_settings
from workers_ai_emulator.cli.output import print_line
from workers_ai_emulator.errors import AddressUnavailable
from workers_ai_emulator.settings import Settings

log = logging.getLogger(__name__)


@with_settings
def serve(settings: Settings) -> None:
    """Serve the API until Ctrl-C or SIGTERM.

    The first line on stdout is the base URL. The server prints this line when it is ready. With the
    backends `llama` and `upstream`, it is ready when a model has generated a token.
    """
    logging.basicConfig(
        level=settings.log_level.upper(),
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(message)s",
    )
    logging.getLogger("httpx2").setLevel(logging.WARNING)  # at INFO, httpx2 logs every request
    # These imports are slow, and `serve --help` does not need them.
    from workers_ai_emulator.models.models_file import read_catalog
    from workers_ai_emulator.server.server import Server

    for variable in unknown_setting_variables():
        log.warning("ignoring %s: no setting has this variable", variable)
    catalog = read_catalog(settings.models_dir, settings.models_file)
    listener = _listen(settings)
    if settings.is_open_to_others:
        log.warning(
            "OPEN TO OTHER MACHINES: --host %s accepts their requests, and none needs a token. "
            "Set --api-token or --api-token-file, or leave out --host.",
            settings.host,
        )
    if flags := settings.unused_script_flags:
        log.warning(
            "the backend %s does not use %s; only requests with the header "
            "`x-emulator-backend: scripted` do. Add --backend scripted.",
            settings.backend,
            " and ".join(flags),
        )
    Server(settings, catalog, listener, on_ready=print_line).serve_until_stopped()


def _listen(settings: Settings) -> socket.socket:
    """Returns a socket that listens on the configured host and port.

    Raises AddressUnavailable if the address cannot be used. If an emulator uses it, the error
    describes that emulator.
    """
    from workers_ai_emulator.launcher.identity import identity_of
    from workers_ai_emulator.server.server import listen

    try:
        return listen(settings)
    except AddressUnavailable as error:
        host, token = settings.base_url_host.strip("[]"), next(iter(settings.api_tokens), None)
        if getattr(error.__cause__, "errno", None) != errno.EADDRINUSE:
            raise
        if (found := identity_of(host, settings.port, token)) is None:
            raise
        raise AddressUnavailable(
            f"an emulator already listens on {settings.host} port {settings.port} ({found}): use "
            "it, stop it, or choose another port with --port (0 picks a free port)"
        ) from error
