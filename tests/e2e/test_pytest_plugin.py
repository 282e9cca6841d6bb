"""Tests the pytest fixture `workers_ai` in projects of users, each in its own pytest process."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import psutil
import pytest
from workers_ai_emulator.errors import CommandError
from workers_ai_emulator.launcher.child import ChildEmulator
from workers_ai_emulator.pytest_plugin.server import Server

from tests import npm, pypi
from tests.pages import blocks
from tests.server import ServerProcess, server_process, wait_until

LIMIT_S = 300
COUNTED = ("passed", "failed", "errors")
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
    numbers["errors"] = numbers.get("errors", 0) + numbers.get("error", 0)
    return {word: n for word, n in numbers.items() if word in COUNTED and n}


@pytest.mark.parametrize("arguments", [[], ["-n", "4"]], ids=["alone", "parallel"])
def test_the_example_tests_of_the_documentation_pass(
    project: Project, arguments: list[str]
) -> None:
    for number, block in enumerate(blocks("testing.md", "python")[:2]):
        project.write(f"test_page_{number}.py", block)
    done = project.run(*arguments)
    assert counts(done) == {"passed": 5}, done.stdout
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
    assert "ControlError: rule 1: unknown key `answr`; did you mean `answer`?" in done.stdout
    assert re.search(r'^> +workers_ai.fault\("capacty"\)$', done.stdout, re.MULTILINE)
    assert "pytest_plugin/" not in done.stdout


@pytest.mark.parametrize(
    ("users", "expected"), [("*", "*"), ("a.example,*", "a.example,*,127.0.0.1")]
)
def test_the_emulator_is_an_exception_from_the_users_proxy(
    project: Project, users: str, expected: str
) -> None:
    """Many clients read `*` only if it is the whole value."""
    project.write(
        "test_it.py",
        f"""
import os

def test_it(workers_ai):
    assert os.environ["no_proxy"] == os.environ["NO_PROXY"] == {expected!r}
""",
    )
    assert counts(done := project.run(NO_PROXY=users)) == {"passed": 1}, done.stdout


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
    folder = project.folder / "tests"
    folder.mkdir()
    project.write(
        "tests/test_it.py",
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
    project.folder = folder  # paths in the setting are relative to the rootdir
    done = project.run()
    assert counts(done) == {"passed": 1}, done.stdout


def test_a_failed_start_is_reported_with_the_emulators_output(project: Project) -> None:
    project.write("test_it.py", "def test_it(workers_ai):\n    pass\n")
    done = project.run("-o", "workers_ai_args=--script nowhere.yaml")
    assert done.returncode == 1
    assert "the emulator did not start" in done.stdout
    assert re.search("^workers-ai-emulator: .*nowhere.yaml.*", done.stdout, re.MULTILINE)
    assert "Traceback" not in done.stdout and "child.py" not in done.stdout


def test_an_emulator_that_was_killed_is_reported_and_started_again(project: Project) -> None:
    project.write(
        "test_it.py",
        """
import httpx
import psutil

def test_it(workers_ai):
    for child in psutil.Process().children():
        child.kill()
    workers_ai.script("x")

def test_next(workers_ai):
    workers_ai.script("Again.")
    url = workers_ai.run_url("@cf/meta/llama-2-7b-chat-int8")
    assert "Again." in httpx.post(url, json={"prompt": "Hi"}).text
""",
    )
    done = project.run()
    assert counts(done) == {"failed": 1, "passed": 1}, done.stdout
    assert "the emulator was killed by SIGKILL (exit status -9); it is started" in done.stdout
    assert "Traceback" not in done.stdout and "pytest_plugin/" not in done.stdout


def test_the_emulator_exits_when_pytest_is_killed(project: Project, tmp_path: Path) -> None:
    project.write(
        "test_it.py",
        """
import os
import signal
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

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


def test_the_emulator_stops_while_a_forked_process_has_its_pipe_open() -> None:
    emulator = ChildEmulator(["--backend", "scripted"], os.environ)
    process = emulator._process
    assert process.stdin
    of_fork = os.dup(process.stdin.fileno())
    emulator.stop()
    os.close(of_fork)
    assert process.returncode == 0


def test_a_run_without_the_fixture_starts_no_emulator(project: Project) -> None:
    project.write(
        "test_it.py",
        """
import sys

import psutil

def test_it():
    assert psutil.Process().children() == []
    loaded = {name for name in sys.modules if name.startswith("workers_ai_emulator")}
    plugin = "workers_ai_emulator.pytest_plugin"
    parts = {f"{plugin}.{name}" for name in ("control", "server", "workers_ai")}
    launcher = {"workers_ai_emulator.launcher", "workers_ai_emulator.launcher.calls"}
    leaves = {"workers_ai_emulator.json_values", "workers_ai_emulator.wildcards"}
    assert loaded == {"workers_ai_emulator", plugin, *parts, *launcher, *leaves}
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
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)

@pytest.mark.parametrize("number", range(2))
def test_it(workers_ai, number):
    workers_ai.script("x")
    workers_ai.fault("capacity")
    assert workers_ai.requests == []
    with pytest.raises(ValueError, match="`fault` takes one of"):
        workers_ai.fault("none")
    workers_ai.reset()
""",
    )
    done = project.run()
    assert counts(done) == {"passed": 2}, done.stdout


CALLS = """
import httpx
import pytest

INT8, FP16 = "@cf/meta/llama-2-7b-chat-int8", "@cf/meta/llama-2-7b-chat-fp16"

def ask(workers_ai, prompt, model=INT8):
    return httpx.post(workers_ai.run_url(model), json={"prompt": prompt})
"""

# A program that hides every error.
PROGRAM = """
import json, os, urllib.request

def url():
    base, account = os.environ["CLOUDFLARE_BASE_URL"], os.environ["CLOUDFLARE_ACCOUNT_ID"]
    return f"{base}/accounts/{account}/ai/run/@cf/meta/llama-2-7b-chat-int8"

def answer(question, url):
    try:
        request = urllib.request.Request(url, json.dumps({"prompt": question}).encode())
        with urllib.request.urlopen(request) as response:
            return json.load(response)["result"]["response"]
    except Exception:
        return "Sorry."
"""


@pytest.fixture(scope="module")
def scripted() -> Iterator[ServerProcess]:
    """Yields a running emulator with the backend `scripted`."""
    with server_process("--backend", "scripted", "--log-level", "warning") as server:
        yield server


@contextmanager
def other_server(content: bytes) -> Iterator[str]:
    """Runs a server that is no emulator: it answers each request with status 404 and `content`."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(404)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_tests_in_four_processes_share_an_emulator_without_seeing_each_other(
    project: Project, scripted: ServerProcess
) -> None:
    project.write(
        "test_it.py",
        CALLS
        + """
@pytest.mark.parametrize("number", range(32))
def test_it(workers_ai, number):
    assert workers_ai.requests == []
    workers_ai.script({"contains": "Hi", "answer": f"Answer {number}."}, "Other.")
    for turn in range(3):
        assert ask(workers_ai, "Hi").json()["result"]["response"] == f"Answer {number}."
    workers_ai.fault("capacity", times=1)
    assert ask(workers_ai, "Hi").status_code == 429
    assert [call["status"] for call in workers_ai.requests] == [200, 200, 200, 429]
    workers_ai.assert_called(times=4, contains="Hi")
    workers_ai.reset()
    assert workers_ai.requests == []
    assert "scripted answer" in ask(workers_ai, "Hi").text
    assert len(workers_ai.unmatched) == 1
""",
    )
    done = project.run("-n", "4", "-o", f"workers_ai_url={scripted.base_url}")
    assert counts(done) == {"passed": 32}, done.stdout


def test_the_environment_variable_names_a_running_emulator(
    project: Project, scripted: ServerProcess
) -> None:
    account = "a" * 32
    project.write(
        "test_it.py",
        f"""
import psutil

def test_it(workers_ai):
    assert psutil.Process().children() == [] and workers_ai.output == ""
    assert workers_ai.account_id == "{account}"
    assert workers_ai.base_url.startswith("{scripted.root}/")
""",
    )
    url = f"{scripted.root}/_emulator/accounts/{account}"
    done = project.run(WORKERS_AI_EMULATOR_URL=url)
    assert counts(done) == {"passed": 1}, done.stdout


@pytest.mark.parametrize("content", [b"<p>Not here.</p>", b'{"detail":"Not Found"}'])
def test_the_url_of_another_server_is_reported_in_one_line(
    project: Project, content: bytes
) -> None:
    project.write("test_it.py", "def test_it(workers_ai):\n    pass\n")
    with other_server(content) as url:
        done = project.run("-o", f"workers_ai_url={url}")
    assert counts(done) == {"errors": 1}, done.stdout
    found = re.search(f"the server at {url} answered POST .*/reset with (.*)", done.stdout)
    assert found and found[1] == "'HTTP/1.0 404 Not Found': is it workers-ai-emulator?"
    assert "Traceback" not in done.stdout and "pytest_plugin/" not in done.stdout


def test_a_url_at_which_nothing_listens_is_reported_with_the_option(project: Project) -> None:
    project.write("test_it.py", "def test_it(workers_ai):\n    pass\n")
    done = project.run("-o", "workers_ai_url=http://127.0.0.1:1")
    assert counts(done) == {"errors": 1}, done.stdout
    assert "the emulator at http://127.0.0.1:1 does not answer (" in done.stdout
    assert "): check workers_ai_url (or WORKERS_AI_EMULATOR_URL)" in done.stdout


@pytest.mark.parametrize("url", ["https://127.0.0.1:1", "127.0.0.1:1", "http://x:y", "http://x/y"])
def test_an_invalid_url_is_an_error_that_shows_a_valid_one(url: str) -> None:
    with pytest.raises(CommandError, match=r"such as http://127\.0\.0\.1:8790"):
        Server.running(url)


def test_an_error_about_the_url_shows_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CommandError, match=r", not https://x:1$"):
        Server.running("https://me:s3cret@x:1")
    monkeypatch.setenv("PYTEST_XDIST_WORKER_COUNT", "4")
    with pytest.raises(CommandError, match=r"in http://x:1/_emulator/accounts/a{32}: run"):
        Server.running(f"http://me:s3cret@x:1/_emulator/accounts/{'a' * 32}")


@pytest.mark.parametrize(
    ("value", "token"), [(" first,1 second\n", "first,1"), ("one", "one"), (" ", "local")]
)
def test_the_token_is_the_first_in_the_environment(
    monkeypatch: pytest.MonkeyPatch, value: str, token: str
) -> None:
    monkeypatch.setenv("WORKERS_AI_EMULATOR_API_TOKEN", value)
    assert Server.running("http://127.0.0.1:1").token == token


def test_processes_cannot_share_one_account(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_XDIST_WORKER_COUNT", "4")
    with pytest.raises(CommandError, match="share the account"):
        Server.running(f"http://127.0.0.1:1/_emulator/accounts/{'a' * 32}")


@pytest.mark.parametrize("arguments", [[], ["-n", "2"]], ids=["alone", "parallel"])
def test_a_client_of_conftest_reaches_the_emulator_with_workers_ai_env(
    project: Project, arguments: list[str]
) -> None:
    project.write("pytest.ini", "[pytest]\nworkers_ai_env = true\n")
    project.write("client.py", PROGRAM + "\nURL = url()\n")
    project.write("conftest.py", "import client\n")
    project.write(
        "test_it.py",
        """
import client
import pytest

def test_without_the_fixture():
    assert client.answer("Hi", client.URL) == "This is a scripted answer to: Hi"

@pytest.mark.parametrize("number", range(3))
def test_it(workers_ai, number):
    workers_ai.script(f"Answer {number}.")
    assert client.answer("Hi", client.URL) == f"Answer {number}."
    workers_ai.assert_called(times=1)
""",
    )
    done = project.run(*arguments)
    assert counts(done) == {"passed": 4}, done.stdout


@pytest.mark.parametrize("arguments", [[], ["-n", "2"]], ids=["alone", "parallel"])
def test_a_strict_run_with_workers_ai_env_starts_a_strict_emulator(
    project: Project, arguments: list[str]
) -> None:
    project.write("pytest.ini", "[pytest]\nworkers_ai_env = true\n")
    project.write("program.py", PROGRAM)
    project.write(
        "test_it.py",
        """
import program

def test_without_the_fixture():
    assert program.answer("Hi", program.url()) == "Sorry."

def test_unmatched(workers_ai):
    assert program.answer("Hi", program.url()) == "Sorry."
""",
    )
    done = project.run("--workers-ai-strict", *arguments)
    assert counts(done) == {"passed": 2, "errors": 1}, done.stdout


def test_a_failed_start_with_workers_ai_env_is_one_usage_error(project: Project) -> None:
    project.write("test_it.py", "def test_it():\n    pass\n")
    done = project.run("-o", "workers_ai_env=true", "-o", "workers_ai_args=--script nowhere.yaml")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "nowhere.yaml" in done.stderr and "Traceback" not in done.stderr


def test_the_session_fixture_is_for_clients_that_outlive_a_test(project: Project) -> None:
    project.write(
        "test_it.py",
        CALLS
        + """
@pytest.fixture(scope="session")
def client(workers_ai_session):
    with httpx.Client(base_url=workers_ai_session.base_url) as client:
        yield client

@pytest.fixture
def run(client, workers_ai_session):
    path = f"accounts/{workers_ai_session.account_id}/ai/run/{INT8}"
    return lambda prompt: client.post(path, json={"prompt": prompt}).text

@pytest.mark.parametrize("number", range(2))
def test_a_rule_of_a_test_applies_to_the_client(workers_ai, run, number):
    assert "scripted answer" in run("Hi")
    workers_ai.script(f"Answer {number}.")
    assert f"Answer {number}." in run("Hi")
    workers_ai.assert_called(times=2)

def test_other_tests_have_their_own_account(workers_ai, request):
    assert workers_ai.account_id != request.getfixturevalue("workers_ai_session").account_id

@pytest.mark.workers_ai_strict
def test_the_session_alone_is_checked(run):
    run("unmatched")
""",
    )
    done = project.run()
    assert counts(done) == {"passed": 4, "errors": 1}, done.stdout
    assert '"unmatched": status 200' in done.stdout


def test_failed_assertions_list_the_calls(project: Project) -> None:
    project.write(
        "test_it.py",
        CALLS
        + """
def test_passing(workers_ai):
    workers_ai.script({"contains": "Hi", "answer": "1"}, {"contains": "Why", "answer": "2"})
    ask(workers_ai, "Hi")
    ask(workers_ai, "Why?", FP16)
    workers_ai.assert_called()
    workers_ai.assert_called(times=2)
    workers_ai.assert_called(times=1, contains="Why", model="*fp16")
    workers_ai.assert_called(times=0, contains="Why", model=INT8)
    workers_ai.assert_all_rules_used()

def test_not_called(workers_ai):
    workers_ai.assert_called()

def test_wrong_number(workers_ai):
    ask(workers_ai, "Why is it?")
    workers_ai.assert_called(times=2, contains="How", model=INT8)

def test_unused_rule(workers_ai):
    workers_ai.script({"contains": "never", "answer": "1"}, "2")
    ask(workers_ai, "Hi")
    workers_ai.assert_all_rules_used()
""",
    )
    done = project.run()
    assert counts(done) == {"passed": 1, "failed": 3}, done.stdout
    assert "expected at least 1 call, but found 0; there are none" in done.stdout
    name = "@cf/meta/llama-2-7b-chat-int8"
    assert f'expected 2 calls of {name} with "How", but found 0; the test has' in done.stdout
    assert f'1. {name} "Why is it?": status 200' in done.stdout
    assert '1. {"answer": "1", "contains": "never"}' in done.stdout
    assert f'1. {name} "Hi": status 200, rule 2' in done.stdout
    assert "pytest_plugin/" not in done.stdout


def test_a_strict_test_fails_although_the_program_hides_the_error(project: Project) -> None:
    project.write("program.py", PROGRAM)
    project.write(
        "test_it.py",
        """
import program
import pytest

def test_matched(workers_ai):
    workers_ai.script({"contains": "pizza", "answer": "Cheese."})
    assert program.answer("Why is pizza good?", program.url()) == "Cheese."

def test_unmatched(workers_ai):
    workers_ai.script({"contains": "pasta", "answer": "Sauce."})
    assert program.answer("Why is pizza good?", program.url()) == "Sorry."
    workers_ai.reset()  # the call still counts

@pytest.mark.workers_ai_strict(False)
def test_opted_out(workers_ai):
    workers_ai.script({"contains": "pasta", "answer": "Sauce."})
    assert program.answer("Why is pizza good?", program.url()) == "Sorry."
""",
    )
    done = project.run("--workers-ai-strict")
    assert counts(done) == {"passed": 3, "errors": 1}, done.stdout
    assert done.returncode == 1
    assert "no rule of the script and no recording answered 1 call:" in done.stdout
    assert '"Why is pizza good?": status 500' in done.stdout
    assert counts(project.run("-o", "workers_ai_strict=true")) == {"passed": 3, "errors": 1}


def test_a_strict_session_is_checked_after_the_emulator_was_started_again(
    project: Project,
) -> None:
    project.write(
        "test_it.py",
        CALLS
        + """
import psutil

def test_unmatched(workers_ai_session):
    for _ in range(3):
        ask(workers_ai_session, "Hi")

def test_killed(workers_ai_session):
    for child in psutil.Process().children():
        child.kill()
        child.wait()

def test_unmatched_again(workers_ai_session):
    assert ask(workers_ai_session, "Hi").status_code == 500

def test_matched(workers_ai_session):
    workers_ai_session.script("Hi")
    assert ask(workers_ai_session, "Hi").status_code == 200
""",
    )
    done = project.run("--workers-ai-strict")
    assert counts(done) == {"passed": 4, "errors": 3}, done.stdout
    assert "ERROR at teardown of test_killed" in done.stdout
    assert "ERROR at teardown of test_unmatched_again" in done.stdout
    assert "no rule of the script and no recording answered 1 call:" in done.stdout


def test_a_strict_test_counts_calls_that_the_journal_has_dropped(project: Project) -> None:
    project.write(
        "test_it.py",
        CALLS
        + """
def test_it(workers_ai):
    workers_ai.script({"contains": "never", "answer": "Hi"}, {"contains": "often", "answer": "Ho"})
    with httpx.Client() as client:
        for prompt in ["Hi", *1000 * ["often"]]:
            client.post(workers_ai.run_url(INT8), json={"prompt": prompt})
    assert workers_ai.unmatched == []
""",
    )
    done = project.run("--workers-ai-strict")
    assert counts(done) == {"passed": 1, "errors": 1}, done.stdout
    assert re.search(r"answered 1 call:\s+and 1 more", done.stdout), done.stdout


def test_a_fault_applies_to_the_calls_that_nth_names(project: Project) -> None:
    project.write(
        "test_it.py",
        CALLS
        + """
def test_it(workers_ai):
    workers_ai.fault("capacity", nth=2)
    assert [ask(workers_ai, "Hi").status_code for _ in range(3)] == [200, 429, 200]
    with pytest.raises(ValueError, match="it has both `nth` and `times`"):
        workers_ai.fault("capacity", nth=2, times=2)
""",
    )
    done = project.run()
    assert counts(done) == {"passed": 1}, done.stdout


def test_a_list_of_rules_as_one_argument_is_an_error(project: Project) -> None:
    project.write(
        "test_it.py",
        """
import pytest

def test_it(workers_ai):
    with pytest.raises(ValueError, match="each rule as an argument"):
        workers_ai.script([{"answer": "Hi"}])
""",
    )
    done = project.run()
    assert counts(done) == {"passed": 1}, done.stdout


def test_a_script_for_another_backend_is_an_error(project: Project) -> None:
    project.write(
        "test_it.py",
        """
def test_it(workers_ai):
    workers_ai.script("Hi")
""",
    )
    (project.folder / "cassettes").mkdir()
    done = project.run("-o", "workers_ai_backend=replay")
    assert counts(done) == {"failed": 1}, done.stdout
    assert (
        "script() would have no effect, because the emulator's backend is `replay`" in done.stdout
    )
    source = "workers_ai_args=--record-from scripted"
    done = project.run("-o", "workers_ai_backend=record", "-o", source)
    assert counts(done) == {"passed": 1}, done.stdout


def test_calls_that_the_journal_has_dropped_are_an_error(
    project: Project, scripted: ServerProcess
) -> None:
    project.write(
        "test_it.py",
        CALLS
        + """
def test_it(workers_ai):
    with httpx.Client() as client:
        for number in range(1001):
            client.post(workers_ai.run_url(INT8), json={"prompt": "Hi"})
    with pytest.raises(RuntimeError, match="no longer stores all calls of this test"):
        workers_ai.requests
    workers_ai.reset()
    assert workers_ai.requests == []
""",
    )
    done = project.run("-o", f"workers_ai_url={scripted.base_url}")
    assert counts(done) == {"passed": 1}, done.stdout
