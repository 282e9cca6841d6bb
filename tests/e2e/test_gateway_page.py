"""Runs the commands of docs/gateway.md."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator

import pytest

from tests.pages import blocks
from tests.server import ServerProcess, server_process

PAGE = "gateway.md"


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with server_process("--backend", "scripted") as server:
        yield server


def test_the_commands_of_the_page_work(server: ServerProcess) -> None:
    native, universal, cached, failed = (output_of(c, server) for c in blocks(PAGE, "bash"))
    for answer in (native, universal):
        assert json.loads(answer)["result"]["shape"] == [1, 1024]
    assert cached == blocks(PAGE, "text")[0]
    assert json.loads(failed)["internalCode"] == 2003


def output_of(command: str, server: ServerProcess) -> str:
    command = command.replace("http://127.0.0.1:8790", server.root).replace(
        "curl http", "curl -s http"
    )
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    return done.stdout.replace("\r", "")
