"""Tests polling an emulator during its start, with a fake server."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from typing import Any

import pytest
from workers_ai_emulator.errors import CommandError
from workers_ai_emulator.launcher import readiness
from workers_ai_emulator.launcher.readiness import phases
from workers_ai_emulator.wire.envelope import failure
from workers_ai_emulator.wire.errors import FOREIGN_PAGE, WireError

HOST = "127.0.0.1"


class FakeServer(ThreadingHTTPServer):
    """A fake emulator: sends `health` for `healthz`, and the next of the `phases` for `readyz`.

    If `health` is empty, the emulator closes the connection without a response.
    """

    def __init__(self, health: bytes, *phases: str) -> None:
        super().__init__((HOST, 0), Handler)
        self.health = health
        self.phases = list(phases)
        self.paths: list[str] = []


class Handler(BaseHTTPRequestHandler):
    server: FakeServer

    def do_GET(self) -> None:
        self.server.paths.append(self.path)
        is_health = self.path == "/_emulator/healthz"
        if is_health and not self.server.health:
            return
        self.wfile.write(b"HTTP/1.0 200 OK\r\n\r\n")
        self.wfile.write(self.server.health if is_health else status(self.server.phases.pop(0)))

    def log_message(self, *_: Any) -> None:
        """Logs nothing."""


def status(value: Any) -> bytes:
    return json.dumps({"status": value}).encode()


@contextmanager
def running(health: bytes, *phases: str) -> Iterator[FakeServer]:
    with FakeServer(health, *phases) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(autouse=True)
def _poll_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "_POLL_INTERVAL_S", 0)


def test_every_phase_is_yielded_until_the_emulator_is_ready() -> None:
    with running(status("alive"), "loading x", "loading x", "warming up x", "ready") as server:
        found = list(phases(HOST, server.server_port))
    assert found == ["loading x", "loading x", "warming up x"]


def test_without_a_server_the_phase_is_none() -> None:
    with socket.create_server((HOST, 0)) as unused:
        port = unused.getsockname()[1]
    assert list(islice(phases(HOST, port), 2)) == [None, None]


@pytest.mark.parametrize(
    "health", [b"", b"hello", b"[]", b"null", b"{}", status("ok"), status(["alive"])]
)
def test_a_server_that_is_not_an_emulator_is_asked_for_its_health_only(health: bytes) -> None:
    with running(health, "ready") as server:
        assert next(phases(HOST, server.server_port)) is None
    assert server.paths == ["/_emulator/healthz"]


def test_an_emulator_that_refuses_the_host_name_is_an_error() -> None:
    error = WireError(FOREIGN_PAGE, "workers-ai is not a local host name")
    with (
        running(failure(error, "", is_bare=False)) as server,
        pytest.raises(CommandError, match=r"refuses requests: .*workers-ai is not a local host"),
    ):
        next(phases(HOST, server.server_port))


def test_a_missing_response_is_the_last_phase_while_the_port_accepts_connections() -> None:
    with running(status("alive"), "loading x", "warming up x") as server:
        port = server.server_port
        found = phases(HOST, port)
        assert next(found) == "loading x"
        server.health = b""  # the handler then sends no response
        assert next(found) == "loading x"
        server.health = status("alive")
        assert next(found) == "warming up x"
    assert next(found) is None  # the port is closed


def test_another_server_at_the_port_is_not_the_emulator_that_has_responded() -> None:
    with running(status("alive"), "loading x") as server:
        found = phases(HOST, server.server_port)
        assert next(found) == "loading x"
        server.health = b"<html>"
        assert next(found) is None
