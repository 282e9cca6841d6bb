"""Tests the description of a running emulator, and the comparison of its settings."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from workers_ai_emulator.errors import CommandError
from workers_ai_emulator.interception.proxy import Address
from workers_ai_emulator.interception.unmatched import UnmatchedCalls
from workers_ai_emulator.launcher import identity as module
from workers_ai_emulator.launcher.identity import Identity, check_settings, identity_of

STARTED = "2026-01-31T12:00:00+00:00"
INFO = {"started_at": STARTED, "settings": {"backend": "scripted", "seed": 7}}


def answer(monkeypatch: pytest.MonkeyPatch, **responses: object) -> None:
    """Replaces the requests to the emulator by these responses."""
    monkeypatch.setattr(module, "get_json", lambda host, port, name, *_: responses.get(name))


@pytest.mark.parametrize(
    ("health", "info", "expected"),
    [
        (None, None, None),
        ({"status": "ok"}, None, None),
        (["alive"], None, None),
        ({"status": "alive"}, None, "an old version"),
        ({"status": "alive", "pid": 5}, None, "process 5"),
        ({"status": "alive", "pid": 5}, {"errors": [{}]}, "process 5, requires an API token"),
        (
            {"status": "the event loop has been blocked for 30 s", "pid": 5},
            INFO,
            "process 5, backend scripted, started 2026-01-31 12:00:00 UTC",
        ),
    ],
)
def test_an_emulator_is_described_by_what_it_reports(
    monkeypatch: pytest.MonkeyPatch, health: object, info: object, expected: str | None
) -> None:
    answer(monkeypatch, healthz=health, info=info)
    found = identity_of("box.example", 8790)
    assert (found and str(found)) == expected


def test_only_settings_that_the_emulator_reports_are_compared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answer(monkeypatch, healthz={"status": "alive", "pid": 5}, info=INFO)
    check_settings("box.example", 8790, {"seed": 7, "new-flag": 1})
    with pytest.raises(CommandError, match=r"--backend scripted, but .*_BACKEND is llama\."):
        check_settings("box.example", 8790, {"seed": 7, "backend": "llama"})


@pytest.mark.parametrize("host", ["127.0.0.1\r", "my host", "a..b"])
def test_an_invalid_host_name_has_no_emulator(host: str) -> None:
    assert identity_of(host, 8790) is None


def test_strictness_at_an_invalid_host_name_is_an_error() -> None:
    with pytest.raises(CommandError, match="--strict cannot read the unmatched calls"):
        UnmatchedCalls(Address("my host", 8790), None, "local")


def test_the_start_time_has_a_time_zone() -> None:
    started = datetime.fromisoformat(STARTED)
    assert str(Identity(5, started)) == "process 5, started 2026-01-31 12:00:00 UTC"
    assert started.tzinfo is not None and started == datetime(2026, 1, 31, 12, tzinfo=UTC)
