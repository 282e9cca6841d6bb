"""Tells when the worker's thread is no more, or has got nothing done for too long."""

from __future__ import annotations


class Watchdog:
    """Shown the worker at regular moments, it says in words what is wrong, or None.

    It counts the time between these moments: while the whole process is stopped, none passes.
    """

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._num_done = 0
        self._stalled_s = 0.0

    def observe(
        self, *, num_done: int, is_busy: bool, is_alive: bool, elapsed_s: float
    ) -> str | None:
        """`num_done`: calls of llama.cpp that have ended; `is_busy`: somebody waits for more."""
        if not is_alive:
            return "the engine's thread has ended: restart the server"
        is_stalled = self._stalled_s >= self._limit_s
        if num_done != self._num_done or not (is_busy or is_stalled):
            self._num_done = num_done
            self._stalled_s = 0.0
            return None
        self._stalled_s += elapsed_s
        if self._stalled_s < self._limit_s:
            return None
        return f"the engine has got nothing done for {self._stalled_s:.0f} s"
