"""Tests that commands do not import libraries that they do not need, so that they start fast."""

from __future__ import annotations

import subprocess
import sys

import pytest

# Runs the command line, and prints the names of all imported libraries to stderr when it exits.
PROGRAM = """
import atexit, sys
names = lambda: {name.partition(".")[0] for name in sys.modules}
atexit.register(lambda: print("imported:", *names(), file=sys.stderr))
from workers_ai_emulator.cli import main
main()
"""
# Libraries that no command needs before it loads a model, downloads weights or intercepts TLS.
RARE = frozenset(
    {
        *("cryptography", "filelock", "google", "httpx", "httpx2", "huggingface_hub"),
        *("jinja2", "json5", "llama_cpp", "llguidance", "markdown_it", "numpy"),
        *("prometheus_client", "pygments", "re2", "rich", "tomlkit", "tqdm", "trustme", "yaml"),
    }
)
SERVER = frozenset({"asyncio", "fastapi", "httptools", "psutil", "starlette", "uvicorn", "uvloop"})


def start(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROGRAM, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def imported(process: subprocess.Popen[str]) -> set[str]:
    """Waits until the process has exited, and returns the names of its imported libraries."""
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    return set(errors.rpartition("imported:")[2].split())


@pytest.mark.parametrize(
    ("arguments", "others"),
    [
        (["--help"], {"pydantic"}),
        (["--version"], set[str]()),  # typer imports pydantic for a flag without a command
        (["serve", "--help"], set[str]()),
        (["exec", "--help"], set[str]()),
    ],
    ids=["help", "version", "serve", "exec"],
)
def test_help_and_version_import_no_library_of_the_server(
    arguments: list[str], others: set[str]
) -> None:
    names = imported(start(*arguments))
    assert "typer" in names
    assert not names & (RARE | SERVER | others)


def test_a_scripted_server_imports_no_library_for_models_files_or_certificates() -> None:
    process = start("serve", "--backend", "scripted", "--port", "0", "--log-level", "warning")
    assert process.stdout is not None
    assert process.stdout.readline().startswith("http://")
    process.terminate()
    names = imported(process)
    assert names >= {"starlette", "uvicorn"}
    assert not names & RARE
