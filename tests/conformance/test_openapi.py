"""The server against its own document: no answer outside it, over thousands of generated calls.

WORKERS_AI_EMULATOR_TEST_SEED chooses other calls.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.server import ACCOUNT_ID, ServerProcess, server_process

VALUES = {"account_id": ACCOUNT_ID, "gateway_id": "default", "name": "index.html"}
SEED = os.environ.get("WORKERS_AI_EMULATOR_TEST_SEED", "20250324")
HOOKS = Path(__file__).with_name("schemathesis_hooks.py")
# The published schemas are not what the service's validator makes of them: it takes bodies that
# they refuse, and refuses some that they take. test_validator_differential.py is about that.
NOT_CHECKED = "negative_data_rejection,positive_data_acceptance"
# These change what all other endpoints send, so they are tried by themselves.
CONTROL = "^/_emulator/(faults|script|reset)$"


@pytest.mark.parametrize(
    ("selection", "min_cases"),
    [("--exclude-path-regex", 2000), ("--include-path-regex", 50)],
    ids=["api", "control"],
)
def test_no_response_is_outside_the_document(
    selection: str, min_cases: int, tmp_path: Path
) -> None:
    flags = ("--parallel", "8", "--context-length", "2048")
    with server_process(*flags) as server:
        check(server, [selection, CONTROL], min_cases, tmp_path)


def check(server: ServerProcess, selection: list[str], min_cases: int, folder: Path) -> None:
    """Sends generated calls to the selected endpoints, and fails at an undocumented response."""
    command = [sys.executable, "-m", "schemathesis.cli", "run", "--no-color", "--seed", SEED]
    limits = [*selection, "--phases", "coverage,fuzzing", "--max-examples", "10"]
    document = f"{server.root}/_emulator/openapi.json"
    done = subprocess.run(
        [*command, *limits, "--exclude-checks", NOT_CHECKED, document],
        capture_output=True,
        text=True,
        cwd=folder,
        env=os.environ | {"SCHEMATHESIS_HOOKS": HOOKS.stem, "PYTHONPATH": str(HOOKS.parent)},
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    cases = re.search(r"(\d+) generated", done.stdout)
    assert cases and int(cases[1]) >= min_cases, done.stdout
    print(f"{cases[0]} cases, seed {SEED}")


def test_every_path_of_the_document_is_served(server: ServerProcess) -> None:
    document = httpx.get(f"{server.root}/_emulator/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    for path in document["paths"]:
        filled = re.sub(r"{(\w+)}", lambda gap: VALUES.get(gap[1], "x"), path)
        assert httpx.options(server.root + filled).status_code == 405, path
