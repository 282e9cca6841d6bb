"""Polls the health endpoints of an emulator that may still be starting."""

from __future__ import annotations

import http.client
import socket
import time
from collections.abc import Iterator

from workers_ai_emulator.errors import CommandError
from workers_ai_emulator.launcher.identity import json_from
from workers_ai_emulator.wire.errors import FOREIGN_PAGE

_POLL_INTERVAL_S = 0.2
_CONNECT_TIMEOUT_S = 5.0


def phases(host: str, port: int) -> Iterator[str | None]:
    """Polls the emulator at `host` and `port`, and yields its start-up phase until it is ready.

    Yields None while no emulator responds. Raises CommandError if the emulator does not allow the
    host name `host`: this cannot change while the emulator runs. Requests `/_emulator/healthz`
    first, and `/_emulator/readyz` only if the response shows that the server is an emulator.

    If an emulator that has responded before does not respond in time, but still accepts
    connections, yields its last phase again: the machine may have been suspended.
    """
    last = None
    while (phase := _next_phase(host, port, last)) != "ready":
        yield phase
        last = phase
        time.sleep(_POLL_INTERVAL_S)


def _next_phase(host: str, port: int, last: str | None) -> str | None:
    try:
        return _phase(host, port)
    except (OSError, http.client.HTTPException):
        return last if last and _accepts_connections(host, port) else None


def _phase(host: str, port: int) -> str | None:
    """Returns the phase of the emulator, or None if the server is not an emulator.

    Raises CommandError if the emulator does not allow the host name. Raises OSError or
    HTTPException if there is no response.
    """
    match json_from(host, port, "healthz"):
        case {"status": "alive"}:
            match json_from(host, port, "readyz"):
                case {"status": str(phase)}:
                    return phase
        case {"errors": [{"code": FOREIGN_PAGE.code, "message": str(message)}]}:
            raise CommandError(f"the emulator on {host} port {port} refuses requests: {message}")
    return None


def _accepts_connections(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), _CONNECT_TIMEOUT_S).close()
    except OSError:
        return False
    return True
