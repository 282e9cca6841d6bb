"""Fixtures of several unit tests."""

from __future__ import annotations

import threading

import pytest
from workers_ai_emulator.backends.conditions import Conditions, Match, Subject


@pytest.fixture
def match_threads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Returns a list that gets the id of the thread of each comparison with a rule's conditions."""
    threads: list[int] = []
    match = Conditions.match

    def traced(self: Conditions, subject: Subject) -> Match | None:
        threads.append(threading.get_ident())
        return match(self, subject)

    monkeypatch.setattr(Conditions, "match", traced)
    return threads
