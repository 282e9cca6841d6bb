"""Tests how a client finds out whose emulator listens at a port."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from workers_ai_emulator import __version__

from tests.pages import blocks
from tests.server import server_process
from tests.upstreams import free_port


def test_info_names_the_process_and_its_settings() -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    with server_process("--backend", "scripted", "--seed", "7") as server:
        info = httpx.get(f"{server.root}/_emulator/info").json()
        pid = server.process.pid
    assert (info["version"], info["pid"]) == (__version__, pid)
    assert before <= datetime.fromisoformat(info["started_at"]) <= datetime.now(UTC)
    assert info["settings"]["backend"] == "scripted"
    assert (info["settings"]["seed"], info["settings"]["port"]) == (7, 0)


def test_info_needs_the_token_and_does_not_show_it() -> None:
    with server_process("--backend", "scripted", "--api-token", "secret-1") as server:
        url = f"{server.root}/_emulator/info"
        assert httpx.get(url).status_code == 400
        response = httpx.get(url, headers={"authorization": "Bearer secret-1"})
    assert response.status_code == 200
    assert "secret-1" not in response.text


def test_the_page_shows_the_response_and_how_to_wait_for_a_process() -> None:
    request, start = blocks("settings.md", "bash")
    (example,) = blocks("settings.md", "json")
    script = f"{start}curl -s --fail {request.split()[1]}\nkill $!\nwait\n"
    port = str(free_port())
    done = subprocess.run(
        ["bash", "-c", script.replace("8790", port)],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ
        | {"WORKERS_AI_EMULATOR_PORT": port}
        | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
    )
    base_url, response = done.stdout.splitlines()
    info, shown = json.loads(response), json.loads(example)
    assert base_url == f"http://127.0.0.1:{port}/client/v4"
    assert info.keys() == shown.keys() and shown["settings"].keys() <= info["settings"].keys()
    assert f"is ready (process {info['pid']}, backend scripted, started " in done.stderr


def failing(*arguments: str, **variables: str) -> str:
    """Runs a command that fails with one line on stderr. Returns the line."""
    done = subprocess.run(
        [sys.executable, "-m", "workers_ai_emulator", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | variables,
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    return line


def test_serve_names_the_emulator_that_already_listens_at_the_port() -> None:
    with server_process("--backend", "scripted") as server:
        port = server.root.rpartition(":")[2]
        line = failing("serve", "--port", port)
    assert f"an emulator already listens on 127.0.0.1 port {port}" in line
    assert f"(process {server.process.pid}, backend scripted, started " in line
    assert "--port (0 picks a free port)" in line


def test_serve_says_that_another_program_uses_the_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        line = failing("serve", "--backend", "scripted", "--port", str(other.getsockname()[1]))
    assert "stop the program that uses it" in line and "emulator already" not in line


def test_the_settings_of_an_emulator_with_a_token_are_not_named() -> None:
    with server_process("--backend", "scripted", "--api-token", "secret-1") as server:
        port = server.root.rpartition(":")[2]
        line = failing("serve", "--port", port)
        assert f"(process {server.process.pid}, requires an API token)" in line
        line = failing("serve", "--port", port, "--api-token", "secret-1")
        assert f"(process {server.process.pid}, backend scripted, " in line


def test_exec_refuses_an_emulator_with_other_settings_than_its_variables() -> None:
    with server_process("--backend", "scripted", "--seed", "7") as server:
        arguments = ("exec", "--port", server.root.rpartition(":")[2], "--", "true")
        line = failing(*arguments, WORKERS_AI_EMULATOR_SEED="8")
    assert "--seed 7, but WORKERS_AI_EMULATOR_SEED is 8" in line
    assert f"process {server.process.pid}" in line and "--port 0" in line


def test_exec_refuses_at_once_an_emulator_that_does_not_allow_the_host_name() -> None:
    name = socket.gethostname()
    arguments = ("--backend", "scripted", "--host", "0.0.0.0", "--api-token", "secret-1")
    with server_process(*arguments) as server:
        port = server.root.rpartition(":")[2]
        line = failing("exec", "--host", name, "--port", port, "--", "true")
    assert f"{name.lower()} is not a local host name" in line and "--allow-host" in line


@pytest.mark.parametrize("command", [("serve",), ("exec", "true")])
def test_a_host_with_white_space_is_an_error_that_names_it(command: tuple[str, ...]) -> None:
    line = failing(*command, WORKERS_AI_EMULATOR_HOST="my host")
    assert "WORKERS_AI_EMULATOR_HOST" in line and "'my host'" in line


def test_a_host_that_no_resolver_accepts_is_an_error_of_one_line() -> None:
    assert "cannot listen on a..b" in failing("serve", "--backend", "scripted", "--host", "a..b")


def test_exec_uses_an_emulator_with_the_settings_of_its_variables() -> None:
    with server_process("--backend", "scripted", "--seed", "7") as server:
        port = server.root.rpartition(":")[2]
        done = subprocess.run(
            [sys.executable, "-m", "workers_ai_emulator", "exec", "--", "true"],
            capture_output=True,
            text=True,
            timeout=60,
            env=os.environ | {"WORKERS_AI_EMULATOR_PORT": port, "WORKERS_AI_EMULATOR_SEED": "7"},
        )
    assert (done.returncode, done.stderr) == (0, "")
