"""Tests the pytest fixture `workers_ai` in projects of users, each in its own pytest process."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests import npm, pypi
from tests.pages import blocks
from tests.server import wait_until

LIMIT_S = 300
OLD_PYTEST = ("pytest==7.4.4", "pluggy==1.0.0")


class Project:
    """A folder with tests. pytest fails in it for each warning and for each unknown setting."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.write("pytest.ini", "[pytest]\naddopts = --strict-config\nfilterwarnings = error\n")

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text, "utf-8")

    def run(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "pytest", *arguments],
            cwd=self.folder,
            env=os.environ | variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
        )


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def counts(done: subprocess.CompletedProcess[str]) -> dict[str, int]:
    """Returns how many tests passed, failed or had errors, by these words of pytest's output."""
    closing = done.stdout.splitlines()[-1] if done.stdout else ""
    numbers = {word: int(number) for number, word in re.findall(r"(\d+) ([a-z]+)", closing)}
    return {word: n for word, n in numbers.items() if word in ("passed", "failed", "errors")}


@pytest.mark.parametrize("arguments", [[], ["-n", "4"]], ids=["alone", "parallel"])
def test_the_example_tests_of_the_documentation_pass(
    project: Project, arguments: list[str]
) -> None:
    project.write("test_page.py", blocks("testing.md", "python")[0])
    done = project.run(*arguments)
    assert counts(done) == {"passed": 3}, done.stdout
    assert done.returncode == 0 and done.stderr == ""


def test_the_report_of_a_failed_test_has_the_emulators_output(project: Project) -> None:
    project.write(
        "test_it.py",
        """
import httpx

def test_it(workers_ai):
    response = httpx.post(workers_ai.run_url("@cf/no/model"), json={"prompt": "Hi"})
    assert response.status_code == 200
""",
    )
    done = project.run()
    assert counts(done) == {"failed": 1}
    assert "assert 400 == 200" in done.stdout
    output = done.stdout.partition("Output of workers-ai-emulator")[2]
    assert "POST" in output and "@cf/no/model" in output


def test_the_plugin_works_with_an_old_pytest(project: Project) -> None:
    folder = pypi.install(OLD_PYTEST, npm.cache_folder("-".join(OLD_PYTEST)))
    project.write(
        "test_it.py",
        """
import httpx

def test_it(workers_ai):
    httpx.post(workers_ai.run_url("@cf/no/model"), json={"prompt": "Hi"})
    assert False
""",
    )
    done = project.run(
        *("-p", "workers_ai_emulator.pytest_plugin"),
        PYTHONPATH=os.pathsep.join([str(folder), *sys.path]),
        PYTEST_DISABLE_PLUGIN_AUTOLOAD="1",  # other installed plugins need a newer pytest
    )
    assert "pytest-7.4.4, pluggy-1.0.0" in done.stdout
    assert counts(done) == {"failed": 1}
    assert "Output of workers-ai-emulator" in done.stdout


def test_each_test_starts_with_a_reset_emulator(project: Project) -> None:
    project.write(
        "test_it.py",
        """
import httpx
import psutil
import pytest

MODEL = "@cf/meta/llama-2-7b-chat-fp16"

@pytest.mark.parametrize("number", range(3))
def test_it(workers_ai, number):
    assert workers_ai.requests == []
    response = httpx.post(workers_ai.run_url(MODEL), json={"prompt": "Hi"})
    assert response.status_code == 200
    assert response.json()["result"]["response"] == "This is a scripted answer to: Hi"
    workers_ai.script("Other.")
    workers_ai.fault("internal", times=None)
    assert httpx.post(workers_ai.run_url(MODEL), json={"prompt": "Hi"}).status_code == 500
    assert [call["status"] for call in workers_ai.requests] == [200, 500]
""",
    )
    done = project.run()
    assert counts(done) == {"passed": 3}, done.stdout


def test_an_invalid_rule_or_fault_fails_at_the_line_of_the_call(project: Project) -> None:
    project.write(
        "test_it.py",
        """
def test_rule(workers_ai):
    workers_ai.script({"answr": "Hi"})

def test_fault(workers_ai):
    workers_ai.fault("capacty")
""",
    )
    done = project.run()
    assert counts(done) == {"failed": 2}
    assert re.search(r'^> +workers_ai.script\({"answr": "Hi"}\)$', done.stdout, re.MULTILINE)
    assert "ValueError: rule 1: answr: " in done.stdout and "did you mean `answer`?" in done.stdout
    assert re.search(r'^> +workers_ai.fault\("capacty"\)$', done.stdout, re.MULTILINE)
    assert "pytest_plugin.py" not in done.stdout


def test_the_environment_is_changed_for_tests_with_the_fixture_only(project: Project) -> None:
    project.write(
        "test_it.py",
        """
import os

def variables():
    names = "BASE_URL", "ACCOUNT_ID", "API_TOKEN"
    return [os.environ.get(f"CLOUDFLARE_{name}") for name in names]

def test_with(workers_ai):
    assert variables() == [workers_ai.base_url, workers_ai.account_id, workers_ai.api_token]
    assert os.environ["no_proxy"] == os.environ["NO_PROXY"] == "internal.example,127.0.0.1"

def test_without():
    assert variables() == [None, None, "own"]
    assert os.environ["NO_PROXY"] == "internal.example" and "no_proxy" not in os.environ
""",
    )
    own = {"CLOUDFLARE_API_TOKEN": "own", "NO_PROXY": "internal.example"}
    for name in ("CLOUDFLARE_BASE_URL", "CLOUDFLARE_ACCOUNT_ID", "no_proxy"):
        assert name not in os.environ
    done = project.run(**own)
    assert counts(done) == {"passed": 2}, done.stdout


def test_the_setting_workers_ai_args_adds_flags(project: Project) -> None:
    project.write("rules.yaml", "- answer: By the file.\n")
    project.write(
        "pytest.ini",
        "[pytest]\nworkers_ai_args = --script rules.yaml --api-token local --api-token other\n",
    )
    project.write(
        "test_it.py",
        """
import httpx

def test_it(workers_ai):
    url = workers_ai.run_url("@cf/meta/llama-2-7b-chat-int8")
    assert httpx.post(url, json={"prompt": "Hi"}, headers={"authorization": "Bearer x"}).is_error
    token = {"authorization": "Bearer other"}
    result = httpx.post(url, json={"prompt": "Hi"}, headers=token).json()["result"]
    assert result["response"] == "By the file."
    assert len(workers_ai.requests) == 2
""",
    )
    done = project.run()
    assert counts(done) == {"passed": 1}, done.stdout


def test_a_failed_start_is_reported_with_the_emulators_output(project: Project) -> None:
    project.write("test_it.py", "def test_it(workers_ai):\n    pass\n")
    done = project.run("-o", "workers_ai_args=--script nowhere.yaml")
    assert done.returncode == 1
    assert "the emulator did not start" in done.stdout
    assert re.search("^workers-ai-emulator: .*nowhere.yaml.*", done.stdout, re.MULTILINE)
    assert "Traceback" not in done.stdout and "child.py" not in done.stdout


def test_an_emulator_that_has_exited_is_reported_without_a_traceback(project: Project) -> None:
    project.write(
        "test_it.py",
        """
import os
import signal

import psutil

def test_it(workers_ai):
    for child in psutil.Process().children():
        child.kill()
        child.wait()
    workers_ai.reset()
""",
    )
    done = project.run()
    assert counts(done) == {"failed": 1}
    assert "the emulator does not answer" in done.stdout and "Traceback" not in done.stdout


def test_the_emulator_exits_when_pytest_is_killed(project: Project, tmp_path: Path) -> None:
    project.write(
        "test_it.py",
        """
import os
import signal
from pathlib import Path

import psutil

def test_it(workers_ai):
    [child] = psutil.Process().children()
    Path("child").write_text(str(child.pid))
    os.kill(os.getpid(), signal.SIGKILL)
""",
    )
    assert project.run().returncode == -9
    number = int((tmp_path / "child").read_text())
    wait_until(lambda: not psutil.pid_exists(number))


def test_a_run_without_the_fixture_starts_no_emulator(project: Project) -> None:
    project.write(
        "test_it.py",
        """
import sys

import psutil

def test_it():
    assert psutil.Process().children() == []
    loaded = {name for name in sys.modules if name.startswith("workers_ai_emulator")}
    assert loaded == {"workers_ai_emulator", "workers_ai_emulator.pytest_plugin"}
""",
    )
    done = project.run()
    assert counts(done) == {"passed": 1}, done.stdout


def test_a_test_may_delete_the_folder_of_the_output(project: Project) -> None:
    project.write(
        "test_it.py",
        """
import shutil
import httpx

def test_it(workers_ai, tmp_path_factory):
    shutil.rmtree(tmp_path_factory.getbasetemp())
    httpx.post(workers_ai.run_url("@cf/no/model"), json={"prompt": "Hi"})
    assert False

def test_next(workers_ai):
    assert workers_ai.requests == []
""",
    )
    done = project.run()
    assert counts(done) == {"failed": 1, "passed": 1}, done.stdout
    assert "@cf/no/model" in done.stdout.partition("Output of workers-ai-emulator")[2]


def test_an_output_that_cannot_be_read_does_not_end_the_run(project: Project) -> None:
    project.write(
        "test_it.py",
        """
from workers_ai_emulator.pytest_plugin import WorkersAI

def test_it(workers_ai):
    WorkersAI.output = property(lambda self: 1 / 0)
    assert False

def test_next(workers_ai):
    pass
""",
    )
    done = project.run()
    assert counts(done) == {"failed": 1, "passed": 1}, done.stdout
    assert "cannot be read: ZeroDivisionError" in done.stdout


def test_replaced_http_clients_and_sockets_do_not_see_the_fixtures_own_requests(
    project: Project,
) -> None:
    project.write(
        "test_it.py",
        """
import http.client
import socket
import pytest

def refuse(*args, **options):
    raise AssertionError("a request of the fixture was seen")

@pytest.fixture(autouse=True)
def _mocks(monkeypatch):
    monkeypatch.setattr(http.client, "HTTPConnection", refuse)
    monkeypatch.setattr(http.client.HTTPResponse, "__init__", refuse)
    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)

@pytest.mark.parametrize("number", range(2))
def test_it(workers_ai, number):
    workers_ai.script("x")
    workers_ai.fault("capacity")
    assert workers_ai.requests == []
    with pytest.raises(ValueError, match="fault: "):
        workers_ai.fault("none")
    workers_ai.reset()
""",
    )
    done = project.run()
    assert counts(done) == {"passed": 2}, done.stdout
