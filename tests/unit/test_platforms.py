"""Tests what differs on Windows. The tests run on every operating system, and only pretend."""

from __future__ import annotations

import socket
import sys

import pytest
from workers_ai_emulator.cli.execute import execute
from workers_ai_emulator.errors import CommandError
from workers_ai_emulator.server.server import listen
from workers_ai_emulator.settings import Settings


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")


@pytest.mark.usefixtures("windows")
def test_exec_is_refused_on_windows() -> None:
    with pytest.raises(CommandError, match=r"^exec does not work on Windows: run it in WSL, or "):
        execute(["npm", "test"])


@pytest.mark.usefixtures("windows")
def test_the_port_of_another_server_is_not_reused_on_windows() -> None:
    with listen(Settings(port=0)) as listener:
        assert listener.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR) == 0


def test_the_port_of_a_stopped_server_is_reused_on_linux() -> None:
    with listen(Settings(port=0)) as listener:
        assert listener.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR) == 1
