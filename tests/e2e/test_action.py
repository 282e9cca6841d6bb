"""Tests the GitHub Action: runs the scripts of its steps in bash, with files as on a CI runner."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.pages import ROOT, blocks
from tests.server import INT8, server_process
from tests.upstreams import free_port

FOLDER = ROOT / ".ci" / "action"
ACTION: dict[str, Any] = yaml.safe_load((FOLDER / "action.yml").read_text("utf-8"))
LIMIT_S = 120


@dataclass
class Runner:
    """Runs the action's steps like a GitHub runner.

    `system`: the runner's operating system. `groups`: the steps' process groups.
    """

    temp: Path
    inputs: dict[str, str]
    system: str = "Linux"
    outputs: dict[str, dict[str, str]] = field(default_factory=dict)
    groups: list[int] = field(default_factory=list)

    def run(self) -> subprocess.CompletedProcess[str] | None:
        """Runs the steps until one fails. Returns the result of the last step that ran."""
        done = None
        for step in ACTION["runs"]["steps"]:
            if "run" in step and self._value(step.get("if", "true")) == "true":
                done = self._run(step)
                if done.returncode != 0:
                    break
        return done

    def variables(self, name: str = "GITHUB_ENV") -> dict[str, str]:
        """Returns the variables that the steps wrote into the file `name`, such as GITHUB_ENV."""
        lines = (self.temp / name).read_text("utf-8").splitlines()
        return dict(line.split("=", 1) for line in lines)

    def stop(self) -> None:
        """Kills the steps' processes that still run, as a GitHub runner does at the end."""
        for group in self.groups:
            with suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)

    def _run(self, step: dict[str, Any]) -> subprocess.CompletedProcess[str]:
        assert step["shell"] == "bash"
        script, output = self.temp / "step.sh", self.temp / "step.txt"
        script.write_text(step["run"], "utf-8")
        for name in ("GITHUB_ENV", "GITHUB_PATH", "GITHUB_OUTPUT"):
            (self.temp / name).touch()
        files = {name: str(self.temp / name) for name in ("GITHUB_ENV", "GITHUB_PATH")}
        with output.open("wb") as log:
            process = subprocess.Popen(
                ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)],
                stdout=log,
                stderr=log,
                env=os.environ
                | files
                | {"GITHUB_OUTPUT": str(self.temp / "GITHUB_OUTPUT"), "RUNNER_TEMP": str(self.temp)}
                | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
                | {"RUNNER_OS": self.system, "RUNNER_ARCH": "X64"}
                | {name: self._value(value) for name, value in step.get("env", {}).items()},
                start_new_session=True,
            )
            self.groups.append(process.pid)
            status = process.wait(LIMIT_S)
        self.outputs[step["id"]] = self.variables("GITHUB_OUTPUT")
        return subprocess.CompletedProcess(step["run"], status, output.read_text("utf-8"))

    def _value(self, text: str) -> str:
        """Returns the text after replacing each expression `${{ … }}` by its value."""
        return re.sub(r"\$\{\{ (.+?) \}\}", lambda match: self._expression(match[1]), text)

    def _expression(self, expression: str) -> str:
        match re.split(r"[. ]", expression):
            case ["inputs", name]:
                default: str = ACTION["inputs"][name]["default"]
                return self.inputs.get(name, default)
            case ["inputs", name, "==", literal]:
                return str(repr(self._expression(f"inputs.{name}")) == literal).lower()
            case ["github", "action_path"]:
                return str(FOLDER)
            case ["steps", step, "outputs", name]:
                return self.outputs[step][name]
        raise AssertionError(f"unknown expression {expression}")


@pytest.fixture
def runner(tmp_path: Path) -> Iterator[Runner]:
    runner = Runner(tmp_path, {"install": "false", "port": str(free_port())})
    yield runner
    runner.stop()


def test_later_steps_reach_a_ready_emulator(runner: Runner) -> None:
    done = runner.run()
    assert done and done.returncode == 0, done and done.stdout
    variables = runner.variables()
    base_url = f"http://127.0.0.1:{runner.inputs['port']}/client/v4"
    assert runner.outputs["start"]["base-url"] == base_url
    log = Path(runner.outputs["start"]["log"]).read_text("utf-8")
    assert base_url in log.splitlines()
    assert variables["CLOUDFLARE_BASE_URL"] == base_url
    response = httpx.post(
        f"{base_url}/accounts/{variables['CLOUDFLARE_ACCOUNT_ID']}/ai/run/{INT8}",
        json={"prompt": "Hi"},
        headers={"authorization": f"Bearer {variables['CLOUDFLARE_API_TOKEN']}"},
    )
    assert response.json()["result"]["response"] == "This is a scripted answer to: Hi"


def test_a_runner_without_linux_fails_the_first_step_with_the_reason(runner: Runner) -> None:
    runner.system = "macOS"
    done = runner.run()
    assert done and done.returncode == 1
    assert done.stdout == (
        "::error::the action needs a runner with Linux, not macOS: set runs-on: ubuntu-latest\n"
    )


def test_a_failed_start_fails_the_step_with_the_reason(runner: Runner) -> None:
    runner.inputs["args"] = "--backend nope"
    done = runner.run()
    assert done and done.returncode == 1
    assert "replay, not 'nope'" in done.stdout


def test_a_quoted_argument_may_contain_spaces_and_other_arguments_are_not_expanded(
    runner: Runner,
) -> None:
    script = runner.temp / "my rules $HOME.yaml"
    script.write_text("- answer: quoted\n", "utf-8")
    runner.inputs["args"] = f"--backend scripted\n--script '{script}' --upstream-model *\n"
    done = runner.run()
    assert done and done.returncode == 0, done and done.stdout
    root = f"http://127.0.0.1:{runner.inputs['port']}/_emulator"
    settings = httpx.get(f"{root}/info").json()["settings"]
    assert (settings["script"], settings["upstream-model"]) == (str(script), "*")


def test_an_open_quote_is_one_line_with_the_name_of_the_input(runner: Runner) -> None:
    runner.inputs["args"] = "--script 'my rules.yaml"
    done = runner.run()
    assert done and done.returncode == 1
    (line,) = done.stdout.splitlines()
    assert line.startswith("::error::the input args has an open quote")


def test_an_emulator_that_already_listens_at_the_port_fails_the_step(runner: Runner) -> None:
    with server_process("--backend", "scripted", "--port", runner.inputs["port"]) as other:
        done = runner.run()
    assert done and done.returncode == 1
    assert f"process {other.process.pid}, backend scripted" in done.stdout
    assert "base-url" not in runner.outputs["start"]
    assert not runner.variables()


@pytest.mark.parametrize("model", ["true", "false"])
def test_the_cache_key_has_platform_python_version_and_hash(runner: Runner, model: str) -> None:
    runner.inputs |= {"install": "true", "model": model}
    [key, *_] = [step for step in ACTION["runs"]["steps"] if step.get("id") == "key"]
    assert runner._run(key).returncode == 0
    name = runner.outputs["key"]["key"]
    version = ".".join(map(str, sys.version_info[:3]))
    assert re.fullmatch(
        rf"workers-ai-emulator-Linux-X64-{version}-model-{model}-[0-9a-f]{{64}}", name
    )


def test_the_documented_inputs_exist() -> None:
    [step, *_] = yaml.safe_load(blocks("testing.md", "yaml")[0])
    assert step["uses"].split("@")[0].endswith("/.ci/action")
    assert set(step["with"]) <= set(ACTION["inputs"])
