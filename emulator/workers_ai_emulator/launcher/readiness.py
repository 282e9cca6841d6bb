"""Polls the health endpoints of an emulator that may still be starting."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator

from workers_ai_emulator.wire.errors import FOREIGN_PAGE

_RESPONSE_TIMEOUT_S = 5.0
_POLL_INTERVAL_S = 0.2


def phases(host: str, port: int) -> Iterator[str | None]:
    """Polls the emulator at `host` and `port`, and yields its start-up phase until it is ready.

    Yields None while no emulator responds. If the emulator does not allow the host name `host`,
    yields the text of the error. Requests `/_emulator/healthz` first, and `/_emulator/readyz` only
    if the response shows that the server is an emulator.
    """
    while (phase := _phase(host, port)) != "ready":
        yield phase
        time.sleep(_POLL_INTERVAL_S)


def _phase(host: str, port: int) -> str | None:
    health = _get(host, port, "healthz")
    match health:
        case {"status": "alive"}:
            match _get(host, port, "readyz"):
                case {"status": str(phase)}:
                    return phase
        case {"errors": [{"code": FOREIGN_PAGE.code, "message": str(message)}]}:
            return message
    return None


def _get(host: str, port: int, endpoint: str) -> object:
    """Returns the JSON value in the response of `/_emulator/ENDPOINT`.

    Returns None if there is no response, or if the response is not JSON.
    """
    connection = http.client.HTTPConnection(host, port, timeout=_RESPONSE_TIMEOUT_S)
    try:
        connection.request("GET", f"/_emulator/{endpoint}")
        value: object = json.loads(connection.getresponse().read(2**16))
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()
    return value
