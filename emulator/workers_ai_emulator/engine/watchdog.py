"""Detects that the worker thread has died or makes no progress."""

from __future__ import annotations


class Watchdog:
    """Decides from regular observations whether the worker thread is stuck.

    `limit_s`: the thread is stuck if it has requests and makes no progress for this many seconds.
    The watchdog reads no clock; it adds up the values `elapsed_s` of the observations without
    progress. No observations are made while the whole process is suspended, so that time does not
    count.
    """

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._progress = 0
        self._stalled_s = 0.0

    def observe(
        self, *, progress: int, is_busy: bool, is_alive: bool, elapsed_s: float
    ) -> str | None:
        """Returns an error text if the worker thread has ended or is stuck, otherwise None.

        `progress`: the worker's counter `progress`. `is_busy`: whether requests are waiting or
        running. `elapsed_s`: how many seconds the caller waits between two observations. An error
        remains until the counter has increased, also if the thread has no more requests.
        """
        if not is_alive:
            return "the engine's thread has ended: restart the server"
        is_stalled = self._stalled_s >= self._limit_s
        if progress != self._progress or not (is_busy or is_stalled):
            self._progress = progress
            self._stalled_s = 0.0
            return None
        self._stalled_s += elapsed_s
        if self._stalled_s < self._limit_s:
            return None
        return f"the engine has got nothing done for {self._stalled_s:.0f} s"
