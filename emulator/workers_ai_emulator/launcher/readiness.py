"""Polls the health endpoints of an emulator that may still be starting."""

from __future__ import annotations

import time
from collections.abc import Iterator

from workers_ai_emulator.launcher.identity import get_json
from workers_ai_emulator.wire.errors import FOREIGN_PAGE

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
    health = get_json(host, port, "healthz")
    match health:
        case {"status": "alive"}:
            match get_json(host, port, "readyz"):
                case {"status": str(phase)}:
                    return phase
        case {"errors": [{"code": FOREIGN_PAGE.code, "message": str(message)}]}:
            return message
    return None
