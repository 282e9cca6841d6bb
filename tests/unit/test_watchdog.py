"""The watchdog counts the time in which nothing gets done while somebody waits."""

from workers_ai_emulator.engine.watchdog import Watchdog


class Shown:
    """A watchdog of 3 s that is shown the worker every second."""

    def __init__(self) -> None:
        self._watchdog = Watchdog(limit_s=3)

    def complaints(self, *seen: tuple[int, bool], is_alive: bool = True) -> list[bool]:
        """For each `num_completed` and `is_busy`: whether something is wrong."""
        return [
            self._watchdog.observe(
                num_completed=num_completed, is_busy=is_busy, is_alive=is_alive, elapsed_s=1
            )
            is not None
            for num_completed, is_busy in seen
        ]


def test_progress_is_fine() -> None:
    assert not any(Shown().complaints(*((n, True) for n in range(10))))


def test_idleness_is_fine() -> None:
    assert not any(Shown().complaints(*[(5, False)] * 10))


def test_no_progress_is_wrong_after_the_limit() -> None:
    assert Shown().complaints(*[(5, True)] * 5) == [False, False, False, True, True]


def test_it_stays_wrong_when_nobody_waits_any_more() -> None:
    assert Shown().complaints(*[(0, True)] * 3, *[(0, False)] * 2) == [False, False, *[True] * 3]


def test_progress_makes_it_right_again() -> None:
    assert Shown().complaints(*[(0, True)] * 3, (1, True), (1, True)) == [
        *[False, False, True],
        *[False, False],
    ]


def test_a_dead_thread_is_wrong_at_once() -> None:
    assert Shown().complaints((1, False), is_alive=False) == [True]
