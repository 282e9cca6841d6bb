"""Runs the examples of docs/tools.md: the curl commands and the test of a program with tools."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.pages import blocks
from tests.server import ServerProcess

TOOL_CALL, SECOND_TURN, JSON_MODE, REASONING = blocks("tools.md", "bash")


def result_of(command: str, server: ServerProcess) -> dict[str, Any]:
    command = command.replace("http://127.0.0.1:8790", server.root).replace("curl ", "curl -s ", 1)
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120)
    result: dict[str, Any] = json.loads(done.stdout)["result"]
    return result


def test_the_tool_is_called(server: ServerProcess) -> None:
    result = result_of(TOOL_CALL, server)
    (call,) = result["tool_calls"]
    assert result["response"] is None
    assert call["name"] == "get_weather" and isinstance(call["arguments"]["city"], str)


@pytest.mark.parametrize("command", [SECOND_TURN, REASONING], ids=["second turn", "reasoning"])
def test_the_model_answers(server: ServerProcess, command: str) -> None:
    assert result_of(command, server)["choices"][0]["message"]["content"].strip()


def test_the_json_matches_its_schema(server: ServerProcess) -> None:
    content = json.loads(result_of(JSON_MODE, server)["choices"][0]["message"]["content"])
    assert isinstance(content["name"], str) and isinstance(content["people"], int)


def test_the_test_of_a_program_with_tools_passes(tmp_path: Path) -> None:
    (program,) = blocks("tools.md", "python")
    (tmp_path / "test_program.py").write_text(program)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode == 0, done.stdout
