"""A client in a process of its own: the small programs beside this file, run by case."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import httpx

from tests import npm, pypi
from tests.server import ACCOUNT_ID

PROGRAMS = Path(__file__).with_name("programs")
HARD_CODED_URL = "https://api.cloudflare.com/client/v4"

Way = Literal["base_url", "exec"]  # how a client comes to the server
Outcome = dict[str, Any]  # `value`, which may be any JSON, or what the client's error has
Outcomes = dict[str, Outcome]  # by case


@dataclass(frozen=True, slots=True)
class Client:
    """A program, maybe with what it is told first, and the released packages that it uses."""

    program: str
    packages: str = ""

    def __str__(self) -> str:
        return slug(f"{self.program} {self.packages}")

    @property
    def language(self) -> Literal["python", "node"]:
        return "node" if ".mjs" in self.program else "python"

    def install(self) -> None:
        """Into the cache, unless it is there. Skips the test where node or curl is missing."""
        if "curl" in self.program:
            npm.require_programs("curl")
        if self.language == "node":
            npm.require_node()
            npm.install(self.packages.split(), self._folder)
        else:
            pypi.install(self.packages.split(), self._folder)

    def run(
        self,
        base_url: str,
        *cases: str,
        account_id: str = ACCOUNT_ID,
        token: str = "any",
        way: Way = "base_url",
    ) -> Outcomes:
        """What came out of each case."""
        runtime = "node" if self.language == "node" else sys.executable
        program, *options = self.program.split()
        command = [runtime, str(PROGRAMS / program), *options]
        if way == "exec":
            command = [*exec_command(base_url), *command]
            base_url = HARD_CODED_URL
        done = subprocess.run(
            [*command, base_url, account_id, token, *cases],
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
        return npm.cache_folder("clients") / runtime / slug(self.packages)

    @property
    def _environment(self) -> dict[str, str]:
        """Ours, with the client's packages, and without what else it would read or go through."""
        others = re.compile("(cloudflare|openai|cf)_.*|base_url|ai_gateway|.*_proxy", re.IGNORECASE)
        ours = {key: value for key, value in os.environ.items() if not others.fullmatch(key)}
        folders = {
            "PYTHONPATH": self._folder,
            "NODE_PATH": self._folder / "node_modules",
            "XDG_CACHE_HOME": npm.cache_folder("home"),
        }
        # LiteLLM would ask GitHub for prices and Hugging Face for a tokenizer.
        offline = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "HF_HUB_OFFLINE": "1"}
        return ours | offline | {key: str(path) for key, path in folders.items()}


def exec_command(base_url: str) -> list[str]:
    """What starts a program so that its calls of Cloudflare come to a server that runs."""
    port = httpx.URL(base_url).port
    # -E: the client's packages, which are on the PYTHONPATH, are none of the command's own.
    return [sys.executable, "-E", "-m", "workers_ai_emulator", "exec", "--port", str(port), "--"]


def slug(text: str) -> str:
    return re.sub("[^a-z0-9._]+", "-", text).strip("-")


def value_of(outcome: Outcome) -> Any:
    assert "value" in outcome, outcome
    return outcome["value"]


def assert_is_usage(usage: dict[str, int]) -> None:
    assert set(usage) == {"prompt_tokens", "completion_tokens", "total_tokens"}
    assert all(type(count) is int and count > 0 for count in usage.values())
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
