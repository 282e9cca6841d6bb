"""An official client in a process of its own: the small programs beside this file, run by case."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tests import npm, pypi
from tests.server import ACCOUNT_ID

PROGRAMS = Path(__file__).with_name("programs")
ENDING = {"python": "py", "node": "mjs"}

Outcome = dict[str, Any]  # `value`, which may be any JSON, or what the client's error has
Outcomes = dict[str, Outcome]  # by case


@dataclass(frozen=True, slots=True)
class Client:
    """A released version of a client, and the program that uses it."""

    package: Literal["cloudflare", "openai"]
    language: Literal["python", "node"]
    version: str

    def __str__(self) -> str:
        return f"{self.package}-{self.language}-{self.version}"

    def install(self) -> None:
        """Into the cache, unless it is there. Skips the test where node is missing."""
        if self.language == "node":
            npm.require_node()
            npm.install([f"{self.package}@{self.version}"], self._folder)
        else:
            pypi.install(f"{self.package}=={self.version}", self._folder)

    def run(
        self, base_url: str, *cases: str, account_id: str = ACCOUNT_ID, token: str = "any"
    ) -> Outcomes:
        """What came out of each case."""
        runtime = "node" if self.language == "node" else sys.executable
        program = PROGRAMS / f"{self.package}_{self.language}.{ENDING[self.language]}"
        done = subprocess.run(
            [runtime, str(program), base_url, account_id, token, *cases],
            capture_output=True,
            text=True,
            timeout=60,
            env=self._environment,
        )
        assert done.returncode == 0, done.stderr
        outcomes = [json.loads(line) for line in done.stdout.splitlines()]
        return {outcome.pop("case"): outcome for outcome in outcomes}

    @property
    def _folder(self) -> Path:
        """Python's packages are built for one version of Python."""
        runtime = "node" if self.language == "node" else sys.implementation.cache_tag
        return npm.cache_folder("clients") / runtime / f"{self.package}-{self.version}"

    @property
    def _environment(self) -> dict[str, str]:
        """Ours, with the client's packages, and without what else it would read or go through."""
        others = re.compile("(cloudflare|openai)_.*|.*_proxy", re.IGNORECASE)
        ours = {key: value for key, value in os.environ.items() if not others.fullmatch(key)}
        modules = {"PYTHONPATH": self._folder, "NODE_PATH": self._folder / "node_modules"}
        return ours | {key: str(path) for key, path in modules.items()}


def value_of(outcome: Outcome) -> Any:
    assert "value" in outcome, outcome
    return outcome["value"]


def assert_is_usage(usage: dict[str, int]) -> None:
    assert set(usage) == {"prompt_tokens", "completion_tokens", "total_tokens"}
    assert all(type(count) is int and count > 0 for count in usage.values())
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
