"""Detects that the worker thread has died or makes no progress."""

from __future__ import annotations


class Watchdog:
    """Decides from regular observations whether the worker makes progress.

    `limit_s`: the seconds for which a busy worker may make no progress. Only the time between
    observations counts, so the time in which the whole process is suspended does not.
    """

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._num_completed = 0
        self._stalled_s = 0.0

    def observe(
        self, *, num_completed: int, is_busy: bool, is_alive: bool, elapsed_s: float
    ) -> str | None:
        """Returns a description of the failure, or None if there is none.

        `num_completed`: operations that the worker has completed so far. `is_busy`: requests are
        waiting or running. `elapsed_s`: seconds since the last observation.
        """
        if not is_alive:
            return "the engine's thread has ended: restart the server"
        is_stalled = self._stalled_s >= self._limit_s
        if num_completed != self._num_completed or not (is_busy or is_stalled):
            self._num_completed = num_completed
            self._stalled_s = 0.0
            return None
        self._stalled_s += elapsed_s
        if self._stalled_s < self._limit_s:
            return None
        return f"the engine has got nothing done for {self._stalled_s:.0f} s"
