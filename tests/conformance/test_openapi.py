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

from tests.server import ACCOUNT_ID, ServerProcess

SEED = os.environ.get("WORKERS_AI_EMULATOR_TEST_SEED", "20250324")
HOOKS = Path(__file__).with_name("schemathesis_hooks.py")
# The published schemas are not what the service's validator makes of them: it takes bodies that
# they refuse, and refuses some that they take. test_validator_differential.py is about that.
NOT_CHECKED = "negative_data_rejection,positive_data_acceptance"
MIN_CASES = 2000


def test_no_answer_is_outside_the_document(server: ServerProcess, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "schemathesis.cli", "run", "--no-color", "--seed", SEED]
    limits = ["--phases", "coverage,fuzzing", "--max-examples", "20"]
    document = f"{server.root}/_emulator/openapi.json"
    done = subprocess.run(
        [*command, *limits, "--exclude-checks", NOT_CHECKED, document],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"SCHEMATHESIS_HOOKS": HOOKS.stem, "PYTHONPATH": str(HOOKS.parent)},
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    cases = re.search(r"(\d+) generated", done.stdout)
    assert cases and int(cases[1]) >= MIN_CASES, done.stdout
    print(f"{cases[0]} cases, seed {SEED}")


def test_every_path_of_the_document_is_served(server: ServerProcess) -> None:
    document = httpx.get(f"{server.root}/_emulator/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    for path in document["paths"]:
        filled = path.replace("{account_id}", ACCOUNT_ID).replace("{gateway_id}", "default")
        assert httpx.options(server.root + filled).status_code == 405, path
