"""Pytest's plugin: the fixture `workers_ai` is an emulator of the test's own.

Every run of pytest loads this where the package is installed, so it imports next to nothing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import pluggy

_ANSWER_LIMIT_S = 30.0
_OUTPUT_LIMIT = 2**14


class WorkersAI:
    """The emulator, as a test sees it. Any account and any token will do; these are set."""

    account_id = "0123456789abcdef0123456789abcdef"
    api_token = "local"

    def __init__(self, base_url: str, output: Path) -> None:
        self.base_url = base_url
        self._output = output
        self._output_start = output.stat().st_size

    @property
    def openai_base_url(self) -> str:
        """The base URL for OpenAI's clients."""
        return f"{self.base_url}/accounts/{self.account_id}/ai/v1"

    def run_url(self, model: str) -> str:
        """Where a model is asked."""
        return f"{self.base_url}/accounts/{self.account_id}/ai/run/{model}"

    def script(self, *rules: str | Mapping[str, Any]) -> None:
        """What the backend `scripted` answers in this test: by the first rule that applies.

        A text alone answers everything. Raises ValueError for what is no rule.
        """
        __tracebackhide__ = True
        items = [{"answer": rule} if isinstance(rule, str) else dict(rule) for rule in rules]
        self._ask("POST", "script", items)

    def fault(self, name: str, times: int | None = 1, **options: Any) -> None:
        """Let the next calls fail, so many times; None: all. Raises ValueError for what is none."""
        __tracebackhide__ = True
        self._ask("POST", "faults", {"fault": name, "times": times, **options})

    @property
    def requests(self) -> list[dict[str, Any]]:
        """The calls of this test and their answers, the newest last."""
        __tracebackhide__ = True
        rows = self._ask("GET", "requests?limit=1000")["requests"]
        return [self._ask("GET", f"requests/{row['id']}") for row in reversed(rows)]

    @property
    def output(self) -> str:
        """What the emulator wrote to stderr during this test, at most the last 16 KiB."""
        with self._output.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(self._output_start, end - _OUTPUT_LIMIT))
            return file.read().decode("utf-8", "replace")

    def reset(self) -> None:
        """Forget rules, faults and calls."""
        __tracebackhide__ = True
        self._ask("POST", "reset")

    def _ask(self, method: str, name: str, body: object = None) -> Any:
        """Raises ValueError with the emulator's own words."""
        __tracebackhide__ = True
        import http.client
        from urllib.parse import urlsplit

        parts = urlsplit(self.base_url)
        assert parts.hostname
        connection = http.client.HTTPConnection(parts.hostname, parts.port, _ANSWER_LIMIT_S)
        data = None if body is None else json.dumps(body)
        headers = {"authorization": f"Bearer {self.api_token}"}
        try:
            connection.request(method, f"/_emulator/{name}", data, headers)
            answer = connection.getresponse()
            text = answer.read().decode()
        except (OSError, http.client.HTTPException) as error:
            pytest.fail(f"the emulator does not answer ({error}):\n{self.output}", pytrace=False)
        finally:
            connection.close()
        value = json.loads(text)
        if answer.status >= 400:
            raise ValueError("\n".join(entry["message"] for entry in value["errors"]))
        return value


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini("workers_ai_backend", "What answers the fixture workers_ai.", default="scripted")
    parser.addini("workers_ai_args", "Flags for its `workers-ai-emulator serve`.", "args")


@pytest.fixture(scope="session")
def _workers_ai_server(
    pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Path]]:
    """The base URL of one emulator for all tests of this process, and the file of its output."""
    from workers_ai_emulator.errors import CommandError
    from workers_ai_emulator.launcher.child import started

    output = tmp_path_factory.mktemp("workers-ai-emulator") / "output.txt"
    flags = ["--backend", pytestconfig.getini("workers_ai_backend")]
    flags += pytestconfig.getini("workers_ai_args")
    with output.open("ab") as file:
        try:
            with started(flags, os.environ, file) as base_url:
                yield base_url, output
        except CommandError as error:
            lines = output.read_text("utf-8", "replace")
            failure = pytest.fail.Exception(f"{error}:\n{lines}", pytrace=False)
            raise failure from None


@pytest.fixture
def workers_ai(_workers_ai_server: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> WorkersAI:
    """An emulator that nobody has called yet, and an environment whose clients call it."""
    emulator = WorkersAI(*_workers_ai_server)
    emulator.reset()
    monkeypatch.setenv("CLOUDFLARE_BASE_URL", emulator.base_url)
    monkeypatch.setenv("CLOUDFLARE_ACCOUNT_ID", emulator.account_id)
    monkeypatch.setenv("CLOUDFLARE_API_TOKEN", emulator.api_token)
    exceptions = os.environ.get("no_proxy") or os.environ.get("NO_PROXY")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, f"{exceptions},127.0.0.1" if exceptions else "127.0.0.1")
    return emulator


# `hookwrapper` rather than `wrapper`: pluggy before 1.2 rejects the latter, and so every test run.
@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pluggy.Result[pytest.TestReport], None]:
    """Adds what the emulator wrote to stderr during a failed test to the test's report."""
    outcome = yield
    if outcome.excinfo is not None:
        return  # pluggy raises it
    report = outcome.get_result()
    emulator = getattr(item, "funcargs", {}).get("workers_ai")
    if report.failed and isinstance(emulator, WorkersAI) and (output := emulator.output):
        report.sections.append(("Output of workers-ai-emulator", output))
