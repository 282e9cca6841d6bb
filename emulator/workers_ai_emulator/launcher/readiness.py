"""Polls the health endpoints of an emulator that may still be starting."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator

_RESPONSE_TIMEOUT_S = 5.0
_POLL_INTERVAL_S = 0.2


def phases(host: str, port: int) -> Iterator[str | None]:
    """Polls the emulator at this address, and yields its start-up phase until it is ready.

    Yields None while no emulator responds at the address. A server at this address that is not an
    emulator receives only requests for `/_emulator/healthz`.
    """
    while (phase := _phase(host, port)) != "ready":
        yield phase
        time.sleep(_POLL_INTERVAL_S)


def _phase(host: str, port: int) -> str | None:
    if _status(host, port, "healthz") != "alive":
        return None
    return _status(host, port, "readyz")


def _status(host: str, port: int, endpoint: str) -> str | None:
    connection = http.client.HTTPConnection(host, port, timeout=_RESPONSE_TIMEOUT_S)
    try:
        connection.request("GET", f"/_emulator/{endpoint}")
        return str(json.loads(connection.getresponse().read(2**16))["status"])
    except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError):
        return None
    finally:
        connection.close()
