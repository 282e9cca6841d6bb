"""Tests our pytest plugin in projects that have their own module `emulator`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

LIMIT_S = 60
LAYOUTS = {
    "module": ("emulator.py", "[pytest]\n"),
    "package": ("emulator/__init__.py", "[pytest]\n"),
    "package in src": ("src/emulator/__init__.py", "[pytest]\npythonpath = src\n"),
}
COMMANDS = {
    "pytest": [str(Path(sys.executable).with_name("pytest"))],
    "python -m pytest": [sys.executable, "-m", "pytest"],
}
TESTS = {
    "without the fixture": """
import emulator

def test_it():
    assert emulator.OWNER == "the user"
""",
    "with the fixture": """
import emulator
import httpx

def test_it(workers_ai):
    assert emulator.OWNER == "the user"
    workers_ai.script("Hello.")
    url = workers_ai.run_url("@cf/meta/llama-2-7b-chat-int8")
    assert httpx.post(url, json={"prompt": "Hi"}).json()["result"]["response"] == "Hello."
""",
}


@pytest.mark.parametrize("test", TESTS)
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_user_s_own_module_is_imported(
    tmp_path: Path, layout: str, command: str, test: str
) -> None:
    module, settings = LAYOUTS[layout]
    (tmp_path / module).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / module).write_text('OWNER = "the user"\n')
    (tmp_path / "pytest.ini").write_text(settings + "filterwarnings = error\n")
    (tmp_path / "test_it.py").write_text(TESTS[test])
    done = run(COMMANDS[command], tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
