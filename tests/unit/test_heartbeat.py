"""Tests that the heartbeat reports a blocked event loop."""

from __future__ import annotations

from workers_ai_emulator.runtime.heartbeat import Heartbeat


def test_an_event_loop_that_runs_has_no_failure() -> None:
    heartbeat = Heartbeat()
    for _ in range(100):
        heartbeat.tick()
        heartbeat.beat()
    assert heartbeat.failure is None


def test_an_event_loop_that_is_blocked_for_30_ticks_has_failed_until_it_runs_again() -> None:
    heartbeat = Heartbeat()
    for _ in range(30):
        assert heartbeat.failure is None
        heartbeat.tick()
    assert heartbeat.failure == "the event loop has been blocked for 30 s"
    heartbeat.beat()
    assert heartbeat.failure is None
