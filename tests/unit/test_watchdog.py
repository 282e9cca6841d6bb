"""Tests the watchdog, which reports an engine that has requests and makes no progress."""

from workers_ai_emulator.engine.watchdog import Watchdog


class Observed:
    """A watchdog with a limit of 3 s, which observes the engine's thread every second."""

    def __init__(self) -> None:
        self._watchdog = Watchdog(limit_s=3)

    def failures(self, *seen: tuple[int, bool], is_alive: bool = True) -> list[bool]:
        """Returns, for each pair of `progress` and `is_busy`, whether there is a failure."""
        return [
            self._watchdog.observe(
                progress=progress, is_busy=is_busy, is_alive=is_alive, elapsed_s=1
            )
            is not None
            for progress, is_busy in seen
        ]


def test_progress_is_no_failure() -> None:
    assert not any(Observed().failures(*((n, True) for n in range(10))))


def test_an_idle_worker_is_no_failure() -> None:
    assert not any(Observed().failures(*[(5, False)] * 10))


def test_no_progress_is_a_failure_after_the_limit() -> None:
    assert Observed().failures(*[(5, True)] * 5) == [False, False, False, True, True]


def test_a_failure_remains_when_the_worker_is_no_longer_busy() -> None:
    assert Observed().failures(*[(0, True)] * 3, *[(0, False)] * 2) == [False, False, *[True] * 3]


def test_progress_ends_a_failure() -> None:
    assert Observed().failures(*[(0, True)] * 3, (1, True), (1, True)) == [
        *[False, False, True],
        *[False, False],
    ]


def test_a_dead_thread_is_a_failure_at_once() -> None:
    assert Observed().failures((1, False), is_alive=False) == [True]
