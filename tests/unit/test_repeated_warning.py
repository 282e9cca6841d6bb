"""Tests a warning whose cause may occur many times a second."""

from __future__ import annotations

import logging

import pytest
from workers_ai_emulator.server.warnings import RepeatedWarning


def test_a_warning_is_logged_at_most_once_in_ten_seconds(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now_s)
    warning = RepeatedWarning(logging.getLogger("test"))
    for now_s in (1000.0, 1009.9, 1010.1, 1011.0):
        warning.log("at %d", now_s)
    assert caplog.messages == ["at 1000", "at 1010"]
