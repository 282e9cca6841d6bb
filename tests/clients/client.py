"""Runs a program of the folder `programs`, which calls the emulator with one client library."""

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
# Packages of clients in several modules, so that they are installed only once.
LANGCHAIN_PACKAGES = "langchain-cloudflare==0.4.3"
LITELLM_PACKAGES = "litellm==1.106.2 mcp==2.2.0"
HARD_CODED_URL = "https://api.cloudflare.com/client/v4"

Way = Literal["base_url", "exec"]  # how the client's requests reach the server
Outcome = dict[str, Any]  # either `value` (any JSON), or the fields of the client's error
Outcomes = dict[str, Outcome]  # the outcome of each case, by the name of the case


@dataclass(frozen=True, slots=True)
class Client:
    """A client library under test.

    `program`: the file name of the program that uses the library, with the program's first
    arguments. `packages`: the PyPI or npm packages that the program needs, with their versions.
    """

    program: str
    packages: str = ""

    def __str__(self) -> str:
        return slug(f"{self.program} {self.packages}")

    @property
    def language(self) -> Literal["python", "node"]:
        return "node" if ".mjs" in self.program else "python"

    def install(self) -> None:
        """Installs the packages into the tests' cache. Skips the test without node or curl."""
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
        """Runs the program with these cases, and returns the outcome of each case.

        If `way` is "exec", the program runs under `exec` and calls https://api.cloudflare.com.
        """
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
            timeout=180,
            env=self._environment,
        )
        assert done.returncode == 0, done.stderr
        outcomes = [json.loads(line) for line in done.stdout.splitlines()]
        return {outcome.pop("case"): outcome for outcome in outcomes}

    @property
    def _folder(self) -> Path:
        """The folder of the packages. Each version of Python has its own folder for each client."""
        runtime = "node" if self.language == "node" else sys.implementation.cache_tag
        return npm.cache_folder("clients") / runtime / slug(self.packages)

    @property
    def _environment(self) -> dict[str, str]:
        """The environment of the program: this process's variables and the paths of the packages.

        Omits variables that configure clients or proxies.
        """
        unwanted = re.compile("(cloudflare|openai|cf)_.*|base_url|ai_gateway|.*_proxy", re.I)
        ours = {key: value for key, value in os.environ.items() if not unwanted.fullmatch(key)}
        folders = {
            "PYTHONPATH": self._folder,
            "NODE_PATH": self._folder / "node_modules",
            "XDG_CACHE_HOME": npm.cache_folder("home"),
        }
        # Without these variables, LiteLLM would download prices and a tokenizer.
        offline = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "HF_HUB_OFFLINE": "1"}
        return ours | offline | {key: str(path) for key, path in folders.items()}


def exec_command(base_url: str) -> list[str]:
    """Returns the beginning of an `exec` command that redirects requests to this base URL."""
    port = httpx.URL(base_url).port
    # With -E, the command ignores PYTHONPATH and so does not import the client's packages.
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
