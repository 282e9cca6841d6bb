"""Tests how `exec` runs a command in the foreground: exit codes and signals."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterable, Iterator, Sequence

import pytest
from workers_ai_emulator.interception import foreground
from workers_ai_emulator.interception.foreground import Foreground

TIMEOUT_S = 10


class FakeProcess:
    """A process that exits with `status`: on the signal `last`, or at once if `last` is None."""

    def __init__(self, status: int = 0, *, last: int | None = None) -> None:
        self.received: list[int] = []
        self._status = status
        self._last = last
        self._has_ended = asyncio.Event()

    def send_signal(self, number: int) -> None:
        self.received.append(number)
        if number == self._last:
            self._has_ended.set()

    async def wait(self) -> int:
        if self._last is not None:
            await self._has_ended.wait()
        return self._status


@pytest.fixture(autouse=True)
def _keep_handlers() -> Iterator[None]:
    numbers = foreground._FORWARDED
    handlers = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


def run(monkeypatch: pytest.MonkeyPatch, process: FakeProcess, signals: Iterable[int] = ()) -> int:
    """Runs the fake process in the foreground, while this process receives the signals."""

    async def start(*command: str, env: object) -> FakeProcess:
        for number in signals:
            os.kill(os.getpid(), number)
        return process

    async def run_limited() -> int:
        async with asyncio.timeout(TIMEOUT_S):
            return await Foreground().run(["command"], {})

    monkeypatch.setattr(asyncio, "create_subprocess_exec", start)
    return asyncio.run(run_limited())


@pytest.mark.parametrize(("status", "code"), [(0, 0), (7, 7), (-2, 130), (-9, 137)])
def test_the_exit_code_is_the_commands_or_128_plus_its_signal(
    monkeypatch: pytest.MonkeyPatch, status: int, code: int
) -> None:
    assert run(monkeypatch, FakeProcess(status)) == code


def test_signals_are_forwarded_to_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    process = FakeProcess(last=signal.SIGTERM)
    run(monkeypatch, process, [signal.SIGUSR1, signal.SIGTERM])
    assert set(process.received) == {signal.SIGUSR1, signal.SIGTERM}


@pytest.mark.parametrize(
    ("is_in_foreground", "received"),
    [(True, {signal.SIGTERM}), (False, {signal.SIGTERM, signal.SIGINT})],
)
def test_a_signal_of_the_keyboard_is_not_forwarded_if_the_terminal_sends_it_to_the_command(
    monkeypatch: pytest.MonkeyPatch, is_in_foreground: bool, received: set[int]
) -> None:
    monkeypatch.setattr(foreground, "_is_in_foreground", lambda: is_in_foreground)
    process = FakeProcess(last=signal.SIGTERM)
    run(monkeypatch, process, [signal.SIGINT, signal.SIGTERM])
    assert set(process.received) == received


def test_an_ignored_signal_stays_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    process = FakeProcess(last=signal.SIGTERM)
    run(monkeypatch, process, [signal.SIGHUP, signal.SIGTERM])
    assert process.received == [signal.SIGTERM]
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_a_signal_that_comes_too_late_for_the_command_is_no_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Exiting(FakeProcess):
        def send_signal(self, number: int) -> None:
            super().send_signal(number)
            if number == signal.SIGTERM:
                raise ProcessLookupError

    process = Exiting(7, last=signal.SIGUSR1)
    assert run(monkeypatch, process, [signal.SIGTERM, signal.SIGUSR1]) == 7


def test_a_process_without_a_terminal_is_not_in_the_foreground(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(path: str, flags: int) -> int:
        raise OSError(f"no {path}")

    monkeypatch.setattr(os, "open", fail)
    assert not foreground._is_in_foreground()


@pytest.mark.parametrize(("groups", "expected"), [((5, 5), True), ((5, 6), False)])
def test_a_process_is_in_the_foreground_if_its_group_has_the_terminal(
    monkeypatch: pytest.MonkeyPatch, groups: Sequence[int], expected: bool
) -> None:
    terminal_group, own_group = groups
    monkeypatch.setattr(os, "open", lambda path, flags: os.dup(0))
    monkeypatch.setattr(os, "tcgetpgrp", lambda terminal: terminal_group)
    monkeypatch.setattr(os, "getpgrp", lambda: own_group)
    assert foreground._is_in_foreground() is expected
