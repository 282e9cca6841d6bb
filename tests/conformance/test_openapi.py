"""Tests with thousands of generated requests that the OpenAPI document describes all responses.

The environment variable WORKERS_AI_EMULATOR_TEST_SEED sets the seed of the requests.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from workers_ai_emulator.models.catalog import CATALOG
from workers_ai_emulator.routes.openapi import document

from tests.server import INT8, ServerProcess, server_process
from tests.unit.test_endpoints import filled

SEED = os.environ.get("WORKERS_AI_EMULATOR_TEST_SEED", "20250324")
HOOKS = Path(__file__).with_name("schemathesis_hooks.py")
# These checks require that a server accepts exactly the bodies that the schemas allow. Cloudflare's
# validator does not, and the emulator follows the validator (test_validator_differential.py).
NOT_CHECKED = "negative_data_rejection,positive_data_acceptance"
# The models whose endpoints get generated requests. With all models, the test would take an hour.
MODELS = (INT8, "@cf/openai/gpt-oss-20b", "@cf/baai/bge-m3", "@cf/baai/bge-reranker-base")
# These endpoints change the responses of other endpoints, so they are tested separately.
CONTROL = "^/_emulator/(faults|script|reset)$"


@pytest.mark.parametrize(
    ("selection", "min_cases"),
    [("--exclude-path-regex", 1000), ("--include-path-regex", 50)],
    ids=["api", "control"],
)
def test_the_document_describes_every_response(
    selection: str, min_cases: int, tmp_path: Path
) -> None:
    # The forms of responses do not depend on the backend, and this one is the fastest.
    with server_process("--backend", "scripted") as server:
        check(server, [selection, CONTROL], min_cases, tmp_path)


def check(server: ServerProcess, selection: list[str], min_cases: int, folder: Path) -> None:
    """Sends generated requests to the selected endpoints. Fails if a response is not described.

    `selection`: a flag of schemathesis and a regular expression for paths. `min_cases`: the minimum
    number of requests.
    """
    command = [sys.executable, "-m", "schemathesis.cli", "run", "--no-color", "--seed", SEED]
    limits = [*selection, "--phases", "coverage,fuzzing", "--max-examples", "4"]
    limits += ["--request-timeout", "60"]
    document_file = folder / "openapi.json"
    document_file.write_text(json.dumps(document({name: CATALOG[name] for name in MODELS})))
    target = ["--url", server.root, str(document_file)]
    done = subprocess.run(
        [*command, *limits, "--exclude-checks", NOT_CHECKED, *target],
        capture_output=True,
        text=True,
        cwd=folder,
        env=os.environ | {"SCHEMATHESIS_HOOKS": HOOKS.stem, "PYTHONPATH": str(HOOKS.parent)},
        timeout=1200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    cases = re.search(r"(\d+) generated", done.stdout)
    assert cases and int(cases[1]) >= min_cases, done.stdout
    print(f"{cases[0]} cases, seed {SEED}")


def test_every_process_writes_the_same_document() -> None:
    program = "from workers_ai_emulator.routes.openapi import document; "
    program += "from workers_ai_emulator.models.catalog import CATALOG; print(document(CATALOG))"
    written = {
        subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            env=os.environ | {"PYTHONHASHSEED": str(seed)},
            check=True,
            timeout=60,
        ).stdout
        for seed in range(3)
    }
    assert len(written) == 1


def test_every_path_of_the_document_is_served(server: ServerProcess) -> None:
    served = httpx.get(f"{server.root}/_emulator/openapi.json").json()
    assert served["openapi"].startswith("3.1") and served == document(CATALOG)
    for path in served["paths"]:
        assert httpx.options(server.root + filled(path)).status_code == 405, path
