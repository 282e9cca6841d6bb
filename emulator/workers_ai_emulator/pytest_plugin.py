"""A pytest plugin with the fixture `workers_ai`: an emulator that is reset before each test.

If workers-ai-emulator is installed, pytest loads this module in every run. Slow imports are
therefore inside functions.
"""

from __future__ import annotations

import json
import os
from collections.abc import Generator, Iterator, Mapping

# Imported before the tests run, because a test may replace `socket.socket`.
from socket import AF_INET, SOCK_STREAM, socket
from typing import IO, TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import pluggy

_RESPONSE_TIMEOUT_S = 30.0
_MAX_OUTPUT_BYTES = 2**14


class WorkersAI:
    """The emulator that a test uses: the value of the fixture `workers_ai`.

    The fixture stores `account_id` and `api_token` in environment variables that Cloudflare's
    clients read. By default, the emulator accepts any other account id and token too.
    """

    account_id = "0123456789abcdef0123456789abcdef"
    api_token = "local"

    def __init__(self, base_url: str, output: IO[bytes]) -> None:
        self.base_url = base_url
        self._output = output
        self._output_start = output.seek(0, os.SEEK_END)

    @property
    def openai_base_url(self) -> str:
        """The emulator's base URL for OpenAI clients."""
        return f"{self.base_url}/accounts/{self.account_id}/ai/v1"

    def run_url(self, model: str) -> str:
        """Returns the URL of the endpoint that runs the model named `model`."""
        return f"{self.base_url}/accounts/{self.account_id}/ai/run/{model}"

    def script(self, *rules: str | Mapping[str, Any]) -> None:
        """Sets the rules of the backend `scripted` for this test.

        Each request gets the completion in the first rule that matches the request. A rule that is
        a string matches every request, and the string is the completion. Raises ValueError if a
        rule is invalid.
        """
        __tracebackhide__ = True
        items = [{"answer": rule} if isinstance(rule, str) else dict(rule) for rule in rules]
        self._call("POST", "script", items)

    def fault(self, name: str, times: int | None = 1, **options: Any) -> None:
        """Applies the fault `name` to the next `times` calls, or to all calls if `times` is None.

        Raises ValueError if the fault is unknown or an option is invalid.
        """
        __tracebackhide__ = True
        self._call("POST", "faults", {"fault": name, "times": times, **options})

    @property
    def requests(self) -> list[dict[str, Any]]:
        """This test's calls and their responses, as listed by the emulator, oldest first."""
        __tracebackhide__ = True
        rows = self._call("GET", "requests?limit=1000")["requests"]
        return [self._call("GET", f"requests/{row['id']}") for row in reversed(rows)]

    @property
    def output(self) -> str:
        """The emulator's stderr output during this test, cut to the last 16 KiB."""
        end = self._output.seek(0, os.SEEK_END)
        self._output.seek(max(self._output_start, end - _MAX_OUTPUT_BYTES))
        return self._output.read().decode("utf-8", "replace")

    def reset(self) -> None:
        """Resets the emulator to its initial state.

        Restores the rules with which the backend `scripted` was started, and deletes all faults and
        the list of calls.
        """
        __tracebackhide__ = True
        self._call("POST", "reset")

    def _call(self, method: str, name: str, body: object = None) -> Any:
        """Sends a request to the endpoint `/_emulator/NAME`, and returns the response's JSON.

        Raises ValueError with the emulator's error messages if the emulator rejects the request.
        Fails the test if the emulator does not respond.
        """
        __tracebackhide__ = True
        try:
            status, text = self._exchange(method, f"/_emulator/{name}", body)
        except (OSError, ValueError) as error:
            pytest.fail(f"the emulator does not answer ({error}):\n{self.output}", pytrace=False)
        value = json.loads(text)
        if status >= 400:
            raise ValueError("\n".join(entry["message"] for entry in value["errors"]))
        return value

    def _exchange(self, method: str, path: str, body: object) -> tuple[int, bytes]:
        """Sends a request to the emulator. Returns the response's status and body.

        Raises OSError if the connection fails, and ValueError if the emulator closes the connection
        without sending a response body. Uses a socket instead of an HTTP client, because a test may
        replace HTTP clients to record or mock the test's own requests.
        """
        from urllib.parse import urlsplit

        parts = urlsplit(self.base_url)
        data = b"" if body is None else json.dumps(body).encode()
        head = [
            f"{method} {path} HTTP/1.0",  # the server closes the connection after its response
            f"host: {parts.netloc}",
            f"authorization: Bearer {self.api_token}",
            f"content-length: {len(data)}",
        ]
        with socket(AF_INET, SOCK_STREAM) as connection:
            connection.settimeout(_RESPONSE_TIMEOUT_S)
            connection.connect((parts.hostname, parts.port))
            connection.sendall("\r\n".join([*head, "", ""]).encode() + data)
            response = b"".join(iter(lambda: connection.recv(2**16), b""))
        start, _, content = response.partition(b"\r\n\r\n")
        if not content:
            raise ValueError("it closed the connection")
        return int(start.split()[1]), content


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini("workers_ai_backend", "The fixture workers_ai's backend.", default="scripted")
    parser.addini("workers_ai_args", "More flags for `workers-ai-emulator serve`.", "args")


@pytest.fixture(scope="session")
def _workers_ai_server(
    pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, IO[bytes]]]:
    """Starts one emulator for all tests of this pytest process, and stops it after them.

    Yields the emulator's base URL and the open file with the emulator's stderr output. The file is
    opened before the tests, because a test may delete the file or mock the file system.
    """
    from workers_ai_emulator.errors import CommandError
    from workers_ai_emulator.launcher.child import emulator_process

    path = tmp_path_factory.mktemp("workers-ai-emulator") / "output.txt"
    flags = ["--backend", pytestconfig.getini("workers_ai_backend")]
    flags += pytestconfig.getini("workers_ai_args")
    with path.open("ab") as file:
        output = path.open("rb")
        # The report of a failed test may read the file after this fixture has ended, so the file is
        # only closed at the end of the pytest run.
        pytestconfig.add_cleanup(output.close)
        try:
            with emulator_process(flags, os.environ, file) as base_url:
                yield base_url, output
        except CommandError as error:
            text = output.read().decode("utf-8", "replace")
            failure = pytest.fail.Exception(f"{error}:\n{text}", pytrace=False)
            raise failure from None


@pytest.fixture
def workers_ai(
    _workers_ai_server: tuple[str, IO[bytes]], monkeypatch: pytest.MonkeyPatch
) -> WorkersAI:
    """Returns an emulator that has been reset for this test.

    Sets environment variables during the test, so that Cloudflare's clients use the emulator.
    """
    emulator = WorkersAI(*_workers_ai_server)
    emulator.reset()
    monkeypatch.setenv("CLOUDFLARE_BASE_URL", emulator.base_url)
    monkeypatch.setenv("CLOUDFLARE_ACCOUNT_ID", emulator.account_id)
    monkeypatch.setenv("CLOUDFLARE_API_TOKEN", emulator.api_token)
    exceptions = os.environ.get("no_proxy") or os.environ.get("NO_PROXY")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, f"{exceptions},127.0.0.1" if exceptions else "127.0.0.1")
    return emulator


# This pytest hook uses the old option `hookwrapper`. With the new option `wrapper`, every test run
# with a pluggy older than 1.2 would fail.
@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pluggy.Result[pytest.TestReport], None]:
    """Adds the emulator's stderr output to the report of a failed test."""
    outcome = yield
    if outcome.excinfo is not None:
        return  # another plugin's hook raised an exception; pluggy raises it again after this hook
    report = outcome.get_result()
    emulator = getattr(item, "funcargs", {}).get("workers_ai")
    if report.failed and isinstance(emulator, WorkersAI):
        try:
            output = emulator.output
        except Exception as error:  # an exception in this hook would end the whole test run
            output = f"cannot be read: {error!r}"
        if output:
            report.sections.append(("Output of workers-ai-emulator", output))
