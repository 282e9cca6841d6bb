"""Runs the commands and settings of docs/testing.md. Other tests run its Python and YAML blocks."""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pages import blocks
from tests.server import server_process

INSTALL, EXEC, SERVE, ACCOUNTS = blocks("testing.md", "bash")
(SETTINGS,) = blocks("testing.md", "ini")
LIMIT_S = 300

# Stands for `npm test`: a program that calls the service once, and hides every error.
NPM = """
import os, sys, urllib.request
assert sys.argv[1:] == ["test"]
account = "/accounts/0123456789abcdef0123456789abcdef"
url = os.environ.get("CLOUDFLARE_BASE_URL", "https://api.cloudflare.com/client/v4") + account
model = "@cf/meta/llama-2-7b-chat-int8"
request = urllib.request.Request(f"{url}/ai/run/{model}", b'{"prompt": "Why pizza?"}')
try:
    with urllib.request.urlopen(request) as response:
        print(response.read().decode())
except OSError:
    print("Sorry.")
"""


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """Returns a folder with the commands `workers-ai-emulator` and `npm`."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (tmp_path / "npm.py").write_text(NPM, "utf-8")
    python = shlex.quote(sys.executable)
    commands = {
        "workers-ai-emulator": "-m workers_ai_emulator",
        "npm": shlex.quote(str(tmp_path / "npm.py")),
    }
    for name, arguments in commands.items():
        path = folder / name
        path.write_text(f'#!/bin/sh\nexec {python} {arguments} "$@"\n', "utf-8")
        path.chmod(0o755)
    return folder


def shell(text: str, programs: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", text],
        cwd=programs.parent,
        env={**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.mark.parametrize(
    ("contains", "status", "printed"), [("pizza", 0, "Cheese."), ("pasta", 99, "Sorry.")]
)
def test_the_example_of_exec(programs: Path, contains: str, status: int, printed: str) -> None:
    rules = f"- contains: {contains}\n  answer: Cheese.\n"
    (programs.parent / "rules.yaml").write_text(rules, "utf-8")
    done = shell(EXEC, programs, WORKERS_AI_EMULATOR_PORT=str(free_port()))
    assert (done.returncode, printed in done.stdout) == (status, True), done.stdout + done.stderr


def test_the_example_of_serve_and_wait_stops_the_emulator(programs: Path) -> None:
    port = str(free_port())
    text = f"{SERVE.replace('8790', port)}\nexit 7"
    # `shell` returns when no process has its pipes open any more, that is, when the emulator ends.
    done = shell(text, programs, WORKERS_AI_EMULATOR_PORT=port)
    assert "This is a scripted answer to: Why pizza?" in done.stdout, done.stdout + done.stderr
    assert done.returncode == 7


def test_the_example_of_accounts(programs: Path) -> None:
    with server_process("--backend", "scripted") as server:
        text = ACCOUNTS.replace("curl ", "curl -sS -w '\\n' ")
        done = shell(text.replace("http://127.0.0.1:8790", server.root), programs)
        other = server.post(server.run_url(), {"prompt": "Why?"})
    _, response, reset = done.stdout.splitlines()
    assert json.loads(response)["result"]["response"] == "It is the cheese."
    assert json.loads(reset) == {"status": "reset"}
    assert "It is the cheese." not in other.text


def test_the_example_of_settings(programs: Path) -> None:
    (programs.parent / "pytest.ini").write_text(SETTINGS, "utf-8")
    (programs.parent / "test_it.py").write_text(
        """
def test_it(workers_ai):
    settings = workers_ai.settings
    assert (settings["backend"], settings["seed"]) == ("llama", 1)
    assert workers_ai.api_token == "local"
""",
        "utf-8",
    )
    pytest_command = [sys.executable, "-m", "pytest", "--strict-config", "test_it.py"]
    done = shell(shlex.join(pytest_command), programs)
    assert done.returncode == 0 and "1 passed" in done.stdout, done.stdout + done.stderr


def test_the_page_installs_the_package_of_the_fixture() -> None:
    project = (Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8")
    name = re.search(r'^name = "(.+)"$', project, re.MULTILINE)
    assert name and INSTALL.splitlines() == [f"pip install {name[1]}", "pytest"]
