"""Tests the text of the Dockerfile. tests/prove_image.sh builds and runs the image."""

from __future__ import annotations

import json
import re

import yaml

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


def test_the_package_is_installed_before_it_is_imported() -> None:
    [run] = [line for line in DOCKERFILE.splitlines() if "import REQUIREMENT" in line]
    commands = [" ".join(command.split()) for command in run.split("&&")]
    assert commands[0] == "RUN pip install --no-deps ."
    assert "import REQUIREMENT" in commands[1]
