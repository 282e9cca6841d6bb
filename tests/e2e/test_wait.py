"""Tests the exit code and the output of the command `wait`."""

from __future__ import annotations

import http.server
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.server import ServerProcess, server_process

LIMIT_S = 60
NO_LIMIT = ("--timeout", "1000")  # longer than the test waits


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "workers_ai_emulator", "wait", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait(*arguments: str) -> tuple[int, str]:
    """Runs the command `wait`. Returns its exit code and stderr."""
    with start(*arguments) as process:
        stdout, stderr = process.communicate(timeout=LIMIT_S)
    assert stdout == ""
    return process.returncode, stderr


class Emulator(http.server.BaseHTTPRequestHandler):
    """A fake emulator: each request to `readyz` gets the next of the server's `phases`."""

    def do_GET(self) -> None:
        is_health = self.path == "/_emulator/healthz"
        body = json.dumps({"status": "alive" if is_health else self.phase()}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def phase(self) -> str:
        phases: list[str] = self.server.phases  # type: ignore[attr-defined] # ours
        return phases.pop(0) if len(phases) > 1 else phases[0]

    def log_message(self, format: str, *args: object) -> None:
        """Logs nothing."""


@contextmanager
def starting(*phases: str) -> Iterator[http.server.HTTPServer]:
    """Runs a fake emulator whose `readyz` returns these phases in order."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Emulator) as server:
        server.phases = list(phases)  # type: ignore[attr-defined] # ours
        threading.Thread(target=server.serve_forever).start()
        try:
            yield server
        finally:
            server.shutdown()


@pytest.fixture
def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def port_of(server: ServerProcess) -> str:
    return server.root.rpartition(":")[2]


def test_a_ready_emulator_is_named_with_its_process(scripted: ServerProcess) -> None:
    line = f"the emulator at {scripted.root} is ready (process {scripted.process.pid}, "
    for flags in (["--url", scripted.base_url], ["--port", port_of(scripted)]):
        status, stderr = wait(*flags, "--timeout", "0")
        assert status == 0 and stderr.startswith(f"{line}backend scripted, started ")
        assert len(stderr.splitlines()) == 1


def test_the_emulator_may_be_the_expected_process_or_a_descendant(scripted: ServerProcess) -> None:
    for pid in (scripted.process.pid, os.getpid()):
        status, _ = wait("--port", port_of(scripted), "--pid", str(pid), *NO_LIMIT)
        assert status == 0


def test_an_emulator_of_another_process_is_an_error(scripted: ServerProcess) -> None:
    with subprocess.Popen(["sleep", "1000"]) as other:
        status, stderr = wait("--port", port_of(scripted), "--pid", str(other.pid), *NO_LIMIT)
        other.kill()
    assert status == 1 and len(stderr.splitlines()) == 1
    assert f"another emulator listens on 127.0.0.1 port {port_of(scripted)} " in stderr
    assert f"(process {scripted.process.pid}, " in stderr
    assert f"not process {other.pid}" in stderr


def test_a_process_that_has_ended_is_an_error(free_port: int) -> None:
    with subprocess.Popen(["true"]) as ended:
        os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)  # from here on, it is a zombie
        zombie = wait("--port", str(free_port), "--pid", str(ended.pid), *NO_LIMIT)
    gone = wait("--port", str(free_port), "--pid", str(ended.pid), *NO_LIMIT)
    for status, stderr in (zombie, gone):
        assert status == 1
        assert stderr.endswith(f"process {ended.pid} has ended; its own output has the reason\n")


def test_it_waits_for_an_emulator_that_starts_later(free_port: int) -> None:
    process = start("--port", str(free_port), *NO_LIMIT)
    try:
        with server_process("--backend", "scripted", "--port", str(free_port)):
            assert process.communicate(timeout=LIMIT_S)[0] == ""
    finally:
        process.kill()
    assert process.returncode == 0


def test_each_phase_is_printed_once() -> None:
    with starting("loading x", "loading x", "warming up x", "ready") as server:
        status, stderr = wait("--port", str(server.server_port), *NO_LIMIT)
    root = f"http://127.0.0.1:{server.server_port}"
    assert status == 0
    assert stderr.splitlines() == [
        f"waiting for the emulator at {root}: loading x",
        f"waiting for the emulator at {root}: warming up x",
        f"the emulator at {root} is ready (an old version)",  # the fake sends no process id
    ]


def test_a_timeout_during_the_start_is_an_error_with_the_phase() -> None:
    with starting("loading x") as server:
        status, stderr = wait("--port", str(server.server_port), "--timeout", "0")
    assert status == 1
    assert stderr.splitlines()[1:] == [
        f"workers-ai-emulator: the emulator at http://127.0.0.1:{server.server_port} is not ready "
        "after 0 s: loading x"
    ]


def test_a_timeout_without_an_emulator_is_an_error_of_one_line(free_port: int) -> None:
    status, stderr = wait("--port", str(free_port), "--timeout", "0.1")
    assert status == 1
    assert f"no emulator answers at http://127.0.0.1:{free_port} after 0.1 s" in stderr
    assert len(stderr.splitlines()) == 1


def test_it_exits_early_when_the_emulator_exits() -> None:
    with starting("loading x") as server:
        process = start("--port", str(server.server_port), *NO_LIMIT)
        assert process.stderr and "loading x" in process.stderr.readline()
    _, stderr = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 1
    assert "has ended" in stderr and len(stderr.splitlines()) == 1


def test_an_emulator_that_refuses_the_host_name_is_an_error_at_once() -> None:
    with server_process("--backend", "scripted", "--host", "0.0.0.0") as server:
        name = socket.gethostname()
        status, stderr = wait("--host", name, "--port", port_of(server), *NO_LIMIT)
    assert status == 1 and len(stderr.splitlines()) == 1
    assert f"{name.lower()} is not a local host name" in stderr and "--allow-host" in stderr


@pytest.mark.parametrize("host", ["127.0.0.1\r", " 127.0.0.1 "])
def test_white_space_around_the_host_is_ignored(scripted: ServerProcess, host: str) -> None:
    status, _ = wait("--host", host, "--port", port_of(scripted), *NO_LIMIT)
    assert status == 0


def test_a_host_with_white_space_is_refused() -> None:
    status, stderr = wait("--host", "my host")
    assert status == 1 and "not 'my host'" in stderr and len(stderr.splitlines()) == 1


def test_a_timeout_that_is_no_number_is_refused(free_port: int) -> None:
    status, stderr = wait("--port", str(free_port), "--timeout", "nan")
    assert status == 2 and "--timeout" in stderr and len(stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:8790",
        "ftp://127.0.0.1",
        "http://127.0.0.1:99999",
        "http://127.0.0.1:0",
        "http://my host:8790",
    ],
)
def test_a_bad_url_is_refused(url: str) -> None:
    status, stderr = wait("--url", url)
    assert status == 2 and url in stderr and len(stderr.splitlines()) == 1


def test_a_bad_url_that_may_contain_a_password_is_not_shown() -> None:
    status, stderr = wait("--url", "http://me:secret/1@127.0.0.1:8790")
    assert status == 2 and stderr.endswith("--url takes a URL such as http://127.0.0.1:8790\n")
