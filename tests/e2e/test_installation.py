"""Tests the package without the extra `model`, in a virtual environment of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pages import ROOT, blocks
from tests.server import ServerProcess, server_process

LIMIT_S = 300
COMMAND = "pip install 'workers-ai-emulator[model]'"


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the package and the packages that the documented tests need.

    No compiler is on the PATH during the installation.
    """
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True, timeout=LIMIT_S)
    pip = [str(folder / "bin" / "pip"), "--disable-pip-version-check", "install", "--quiet"]
    subprocess.run(
        [*pip, str(ROOT), "pytest", "httpx"],
        env=os.environ | {"PATH": str(folder / "bin")},
        check=True,
        timeout=LIMIT_S,
    )
    return folder


def run(
    environment: Path, *command: str, cwd: Path, **variables: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [environment / "bin" / command[0], *command[1:]],
        cwd=cwd,
        env=os.environ | variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )


def test_no_package_for_models_is_installed(environment: Path, tmp_path: Path) -> None:
    listed = run(environment, "pip", "list", "--format", "freeze", cwd=tmp_path).stdout
    names = {line.partition("==")[0].lower().replace("-", "_") for line in listed.splitlines()}
    assert "workers_ai_emulator" in names
    assert not names & {
        "llama-cpp-python",
        "llama_cpp_python",
        "numpy",
        "huggingface-hub",
        "jinja2",
    }


def test_the_documented_tests_pass(environment: Path, tmp_path: Path) -> None:
    (tmp_path / "test_page.py").write_text(blocks("testing.md", "python")[0])
    done = run(environment, "python", "-m", "pytest", "-q", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["serve", "--port", "0"],
        ["pull", "--accept-license", "@cf/meta/llama-2-7b-chat-int8"],
        ["models", "verify"],
    ],
    ids=" ".join,
)
def test_a_command_that_needs_a_model_names_the_missing_part(
    environment: Path, tmp_path: Path, arguments: list[str]
) -> None:
    done = run(environment, "workers-ai-emulator", *arguments, cwd=tmp_path)
    assert done.returncode == 1
    [line] = [line for line in done.stderr.splitlines() if line.startswith("workers-ai-emulator:")]
    assert COMMAND in line
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments", [["--version"], ["models", "list"], ["worker", "config"], ["exec", "--print-env"]]
)
def test_other_commands_work(environment: Path, tmp_path: Path, arguments: list[str]) -> None:
    variables = {"WORKERS_AI_EMULATOR_BACKEND": "scripted"}  # `exec` starts an emulator
    done = run(environment, "workers-ai-emulator", *arguments, cwd=tmp_path, **variables)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_a_request_for_the_backend_llama_is_an_error(environment: Path) -> None:
    python = str(environment / "bin" / "python")
    with server_process("--backend", "scripted", python=python) as server:
        assert answer(server, "scripted").startswith('{"result":{"response":"This is a scripted')
        assert '"code":3043' in answer(server, "llama")
        assert any(COMMAND in line for line in server.log)
        assert not any("Traceback" in line for line in server.log)


def answer(server: ServerProcess, backend: str) -> str:
    return server.post(server.run_url(), {"prompt": "Hi"}, {"x-emulator-backend": backend}).text
