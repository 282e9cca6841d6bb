"""The emulator that all tests of a pytest process use: a child process, or a running emulator."""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, TYPE_CHECKING, Any

from workers_ai_emulator.pytest_plugin.control import request_json

if TYPE_CHECKING:
    from workers_ai_emulator.launcher.child import ChildEmulator

URL_VARIABLE = "WORKERS_AI_EMULATOR_URL"
_TOKEN_VARIABLE = "WORKERS_AI_EMULATOR_API_TOKEN"
_MAX_OUTPUT_BYTES = 2**14


class Server:
    """The emulator of this pytest process.

    `root`: its URL, without a path. `token`: the API token of the tests. `account`: the account of
    all tests; None if each test has its own account. `settings`: the emulator's settings, by their
    flags; None until a fixture has requested them. `num_tests`: how many tests have begun.
    `num_restarts`: how many times the emulator was started again, with no calls and new ids.
    """

    def __init__(self, root: str, account: str | None = None) -> None:
        self.root = root
        self.account = account
        self.settings: dict[str, Any] | None = None
        self.num_tests = 0
        self.num_restarts = 0
        self.token = (os.environ.get(_TOKEN_VARIABLE, "").split() or ["local"])[0]
        self.session_account = account or secrets.token_hex(16)

    @classmethod
    def running(cls, url: str) -> Server:
        """Returns the running emulator at `url`, such as `http://127.0.0.1:8790`.

        If `url` has the prefix `/_emulator/accounts/ID`, all tests use this account. Raises
        CommandError if the URL is invalid, or if several processes would share the account.
        """
        from urllib.parse import urlsplit

        from workers_ai_emulator.errors import CommandError
        from workers_ai_emulator.urls import but_not, shown_url
        from workers_ai_emulator.wire.accounts import is_account_id, split_prefix

        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port or 80
        except ValueError:
            host = ""
        account, path = split_prefix(parts.path.rstrip("/")) if host else (None, "")
        is_valid = host and parts.scheme == "http" and path in ("", "/", "/client/v4")
        if not is_valid or (account is not None and not is_account_id(account)):
            raise CommandError(
                f"workers_ai_url (or {URL_VARIABLE}) takes the URL of an emulator, such as "
                f"http://127.0.0.1:8790{but_not(url)}"
            )
        if account and int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")) > 1:
            raise CommandError(
                "several processes of pytest-xdist would share the account in "
                f"{shown_url(url)}: run `exec` without --account and with --port 0, or pytest "
                "without -n"
            )
        return cls(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}", account)

    def exit_reason(self, *, is_exiting: bool = False) -> str | None:
        """Returns why the emulator has exited; None if it runs, or if it is no child process.

        `is_exiting`: waits up to two seconds for its exit.
        """
        return None

    def silence(self, error: OSError) -> str:
        """Returns the error text for a request that the emulator has not answered."""
        where = f"check workers_ai_url (or {URL_VARIABLE})"
        return f"the emulator at {self.root} does not answer ({error}): {where}"

    @property
    def output(self) -> str:
        """What the emulator wrote to stderr during this test; empty if it is no child process."""
        return ""

    def begin_test(self) -> None:
        """Starts the emulator again if it has exited, and leaves out earlier output in `output`."""
        self.num_tests += 1

    def stop(self) -> None:
        """Stops the emulator if it is a child process."""

    def request(self, method: str, path: str, body: object = None) -> Any:
        """Sends a request to the emulator, and returns the response's JSON.

        Raises ControlError if the emulator rejects the request, and OSError if it does not respond.
        """
        __tracebackhide__ = True
        return request_json(self.root, self.token, method, path, body)


class ChildServer(Server):
    """An emulator that runs as a child process of pytest, with these flags of `serve`.

    Its stderr output goes to a file, which is opened before the tests, because a test may delete
    the file or mock the file system. The constructor raises CommandError if the emulator does not
    start; the message contains the emulator's output.
    """

    def __init__(self, flags: Sequence[str], account: str | None = None) -> None:
        self._flags = [*flags]
        with TemporaryDirectory(
            prefix="workers-ai-emulator-", ignore_cleanup_errors=True
        ) as folder:
            path = Path(folder, "output.txt")
            self._log: IO[bytes] = path.open("ab")
            self._reader: IO[bytes] = path.open("rb")
        self._output_start = 0
        try:
            self._emulator = self._start(port=0)
        except BaseException:
            self._close_files()
            raise
        super().__init__(self._emulator.base_url.removesuffix("/client/v4"), account)

    def exit_reason(self, *, is_exiting: bool = False) -> str | None:
        return self._emulator.exit_reason(is_exiting=is_exiting)

    def silence(self, error: OSError) -> str:
        return f"the emulator does not answer ({error})"

    @property
    def output(self) -> str:
        """What the emulator wrote to stderr during this test, cut to the last 16 KiB."""
        end = self._reader.seek(0, os.SEEK_END)
        self._reader.seek(max(self._output_start, end - _MAX_OUTPUT_BYTES))
        return self._reader.read().decode("utf-8", "replace")

    def begin_test(self) -> None:
        """Starts the emulator again, on the same port, if it has exited.

        Raises CommandError if the emulator does not start.
        """
        super().begin_test()
        self._output_start = self._reader.seek(0, os.SEEK_END)
        if self.exit_reason() is not None:
            self._emulator.stop()
            self._emulator = self._start(port=int(self.root.rpartition(":")[2]))
            self.num_restarts += 1

    def stop(self) -> None:
        self._emulator.stop()
        self._close_files()

    def _start(self, port: int) -> ChildEmulator:
        from workers_ai_emulator.errors import CommandError
        from workers_ai_emulator.launcher.child import ChildEmulator

        try:
            return ChildEmulator(self._flags, os.environ, self._log, port)
        except CommandError as error:
            raise CommandError(f"{error}:\n{self.output}") from None

    def _close_files(self) -> None:
        self._log.close()
        self._reader.close()
