"""Tests whether `exec` uses a running emulator or starts a new one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import pytest
from workers_ai_emulator.errors import CommandError
from workers_ai_emulator.interception import companion as module
from workers_ai_emulator.interception.companion import companion
from workers_ai_emulator.interception.proxy import Address
from workers_ai_emulator.launcher import readiness
from workers_ai_emulator.wire.errors import FOREIGN_PAGE

ADDRESS = Address("box.example", 8790)


class Launcher:
    """A fake launcher: reports these phases of the emulator, and counts started emulators."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *phases: str | None) -> None:
        self.polled: list[Address] = []
        self.flags: list[Sequence[str]] = []
        self.num_running = 0
        self._phases = phases
        monkeypatch.setattr(module, "phases", self.phases)
        monkeypatch.setattr(module, "emulator_process", self.emulator_process)

    def phases(self, host: str, port: int) -> Iterator[str | None]:
        self.polled.append(Address(host, port))
        yield from self._phases

    @contextmanager
    def emulator_process(self, flags: Sequence[str], variables: Mapping[str, str]) -> Iterator[str]:
        self.flags.append(flags)
        self.num_running += 1
        yield "http://127.0.0.1:4321/client/v4"
        self.num_running -= 1


def test_a_running_emulator_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    launcher, lines = Launcher(monkeypatch), list[str]()
    with companion(ADDRESS, {}, lines.append) as address:
        assert address == ADDRESS
    assert (launcher.polled, launcher.flags, lines) == ([ADDRESS], [], [])


def test_each_phase_of_a_running_emulator_is_reported_once(monkeypatch: pytest.MonkeyPatch) -> None:
    Launcher(monkeypatch, "loading x", "loading x", "warming up x")
    lines: list[str] = []
    with companion(ADDRESS, {}, lines.append) as address:
        assert address == ADDRESS
    assert lines == [
        "waiting for the emulator at box.example:8790: loading x",
        "waiting for the emulator at box.example:8790: warming up x",
    ]


@pytest.mark.parametrize("phases", [[None], ["loading x", None]])
def test_a_new_emulator_is_started_if_none_responds(
    monkeypatch: pytest.MonkeyPatch, phases: list[str | None]
) -> None:
    launcher = Launcher(monkeypatch, *phases)
    with companion(ADDRESS, {}, lambda line: None) as address:
        assert address == Address("127.0.0.1", 4321)
        assert launcher.num_running == 1
    assert launcher.num_running == 0


def test_an_emulator_that_refuses_the_host_name_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The fake emulator refuses every request, as the real one refuses an unknown host name."""
    launcher = Launcher(monkeypatch)
    monkeypatch.setattr(module, "phases", readiness.phases)
    refusal = {"errors": [{"code": FOREIGN_PAGE.code, "message": "box is not a local host name"}]}
    monkeypatch.setattr(readiness, "json_from", lambda *_: refusal)
    with (
        pytest.raises(CommandError, match="box is not a local host name"),
        companion(ADDRESS, {}, lambda line: None),
    ):
        pass
    assert launcher.flags == []


def test_port_0_starts_a_new_emulator_without_polling(monkeypatch: pytest.MonkeyPatch) -> None:
    launcher = Launcher(monkeypatch)
    with companion(Address("127.0.0.1", 0), {}, lambda line: None) as address:
        assert address.port == 4321
    assert launcher.polled == []


@pytest.mark.parametrize(
    ("variables", "flags"),
    [({}, ["--log-level", "warning"]), ({"WORKERS_AI_EMULATOR_LOG_LEVEL": "debug"}, [])],
)
def test_a_new_emulator_logs_warnings_unless_the_user_sets_a_level(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], flags: list[str]
) -> None:
    launcher = Launcher(monkeypatch, None)
    with companion(ADDRESS, variables, lambda line: None):
        assert launcher.flags == [flags]
