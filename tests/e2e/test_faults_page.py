"""Runs the code examples of docs/faults.md."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import httpx
import pytest

from tests.pages import blocks
from tests.server import ServerProcess, server_process

BLOCKS = blocks("faults.md", "bash")


@pytest.fixture(scope="module")
def emulator() -> Iterator[ServerProcess]:
    with server_process("--backend", "scripted") as running:
        yield running


def lines_of(block: str, server: ServerProcess) -> list[str]:
    """Runs a block. Returns what each of its commands prints."""
    script = block.replace("curl ", "curl -sS -w '\\n' ").replace(
        "127.0.0.1:8790", server.root.removeprefix("http://")
    )
    done = subprocess.run(
        ["bash", "-euc", script], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_the_page_has_these_examples() -> None:
    assert len(BLOCKS) == 3


def test_the_first_example_adds_rules_and_removes_them(emulator: ServerProcess) -> None:
    added, also_nth, also_times, none = lines_of(BLOCKS[0], emulator)
    assert added == '{"faults":[{"fault":"capacity"}]}'
    assert '{"fault":"reset","nth":3}' in also_nth
    assert '"fault":"stall"' in also_times and '"contains":"weather"' in also_times
    assert none == '{"faults":[]}'


def test_the_example_of_rules_shows_them(emulator: ServerProcess) -> None:
    *_, shown, reset = lines_of(BLOCKS[1], emulator)
    names = ["capacity", "error", "internal", "timeout"]
    assert sorted(names, key=lambda name: shown.index(f'"fault":"{name}"')) == names
    assert reset == '{"status":"reset"}'
    assert httpx.get(f"{emulator.root}/_emulator/faults").json() == {"faults": []}


def test_the_example_of_headers_gets_the_errors(emulator: ServerProcess) -> None:
    error, *page = lines_of(BLOCKS[2], emulator)
    assert '"message":"AiError: Maintenance (' in error
    assert "<title>524: A timeout occurred</title>" in page
