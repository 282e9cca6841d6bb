"""Detects that the event loop is blocked, so that health checks can report it."""

from __future__ import annotations

# The event loop counts as blocked after this many ticks (seconds) without a call of `beat`.
_LIMIT = 30


class Heartbeat:
    """Counts the seconds since the event loop last ran.

    The event loop calls `beat`. Another thread calls `tick` once a second. While the whole process
    is suspended, neither method is called, so the time of the suspension does not count.
    """

    def __init__(self) -> None:
        self._num_ticks = 0

    def beat(self) -> None:
        self._num_ticks = 0

    def tick(self) -> None:
        self._num_ticks += 1

    @property
    def failure(self) -> str | None:
        """The error text while the event loop is blocked, otherwise None."""
        if self._num_ticks < _LIMIT:
            return None
        return f"the event loop has been blocked for {self._num_ticks} s"
