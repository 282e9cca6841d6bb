"""A warning whose cause may occur many times a second."""

from __future__ import annotations

import logging
import time

_INTERVAL_S = 10.0


class RepeatedWarning:
    """Logs a warning to `log`, at most once in ten seconds."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._next_s = 0.0

    def log(self, message: str, *values: object) -> None:
        if time.monotonic() >= self._next_s:
            self._next_s = time.monotonic() + _INTERVAL_S
            self._log.warning(message, *values)
