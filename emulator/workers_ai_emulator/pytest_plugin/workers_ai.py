"""The class `WorkersAI`: the value of the fixtures `workers_ai` and `workers_ai_session`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from workers_ai_emulator.launcher.calls import MAX_LISTED, is_match, list_of
from workers_ai_emulator.pytest_plugin.control import ControlError, NotAnEmulator
from workers_ai_emulator.pytest_plugin.server import Server

_MAX_CALLS = 1000


class WorkersAI:
    """The emulator that a test uses.

    `account_id`: the account whose rules, faults and calls are those of this object. Calls to
    `base_url` belong to this account, whichever account id their paths contain. The fixtures store
    `base_url`, `account_id` and `api_token` in environment variables that Cloudflare's clients
    read. By default, the emulator accepts any other token too.
    """

    def __init__(self, server: Server, account_id: str) -> None:
        self._server = server
        self.account_id = account_id
        self._lost_in: int | None = None  # the number of the test in which the emulator was lost
        self._before_reset = _Unmatched()
        self._num_restarts = server.num_restarts
        self._last_checked_id = 0
        self._num_checked = 0  # how many of the unmatched calls since the last reset were checked

    @property
    def api_token(self) -> str:
        return self._server.token

    @property
    def base_url(self) -> str:
        """The emulator's base URL for Cloudflare's clients."""
        return f"{self._prefix}/client/v4"

    @property
    def openai_base_url(self) -> str:
        """The emulator's base URL for OpenAI clients."""
        return f"{self.base_url}/accounts/{self.account_id}/ai/v1"

    @property
    def settings(self) -> dict[str, Any]:
        """The emulator's settings, by their flags; empty if the emulator does not send them."""
        __tracebackhide__ = True
        if self._server.settings is None:
            try:
                self._server.settings = self._call("GET", "info")["settings"]
            except ControlError:  # an older version
                self._server.settings = {}
        return self._server.settings

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables with which Cloudflare's clients call the emulator."""
        return {
            "CLOUDFLARE_BASE_URL": self.base_url,
            "CLOUDFLARE_ACCOUNT_ID": self.account_id,
            "CLOUDFLARE_API_TOKEN": self.api_token,
        }

    def run_url(self, model: str) -> str:
        """Returns the URL of the endpoint that runs the model named `model`."""
        return f"{self.base_url}/accounts/{self.account_id}/ai/run/{model}"

    def script(self, *rules: str | Mapping[str, Any]) -> None:
        """Sets the rules of the backend `scripted` for this test.

        Each request gets the response of the first rule that applies to the request. A rule that is
        a string applies to every request, and the string is the completion. Raises ValueError if a
        rule is invalid, and RuntimeError if the emulator's backend uses no rules.
        """
        __tracebackhide__ = True
        backend = self.settings.get("backend", "scripted")
        source = self.settings.get("record-from") if backend == "record" else backend
        if source != "scripted":
            raise RuntimeError(
                f"script() would have no effect, because the emulator's backend is `{backend}`: "
                "use the backend `scripted` (workers_ai_backend = scripted)"
            )
        if any(not isinstance(rule, str | Mapping) for rule in rules):
            raise ValueError("script() takes each rule as an argument: write script(*rules)")
        items = [{"answer": rule} if isinstance(rule, str) else dict(rule) for rule in rules]
        self._call("POST", "script", items)

    def fault(self, name: str, times: int | None = 1, **options: Any) -> None:
        """Applies the fault `name` to the next `times` calls, or to all calls if `times` is None.

        With the option `nth`, which names the calls by their numbers, the default of `times` does
        not apply. Raises ValueError if the fault is unknown or an option is invalid.
        """
        __tracebackhide__ = True
        limit = {} if "nth" in options and times == 1 else {"times": times}
        self._call("POST", "faults", {"fault": name, **limit, **options})

    @property
    def requests(self) -> list[dict[str, Any]]:
        """This test's calls and their responses, as listed by the emulator, oldest first.

        Raises RuntimeError if the emulator no longer stores all calls of the test.
        """
        __tracebackhide__ = True
        listed = self._call("GET", f"requests?limit={_MAX_CALLS}")
        if num_dropped := listed["dropped"]:
            raise _Incomplete(f"it has dropped the {num_dropped} oldest calls")
        return self._entries(listed["requests"][::-1])

    @property
    def unmatched(self) -> list[dict[str, Any]]:
        """Those of this test's calls that no rule and no recording answered, oldest first."""
        __tracebackhide__ = True
        return self._entries(self._call("GET", "unmatched")["requests"])

    def assert_called(
        self, times: int | None = None, contains: str | None = None, model: str | None = None
    ) -> None:
        """Asserts that this test has called the emulator.

        `times`: the exact number of calls; None: at least one. `contains`: counts only calls that
        contain this text, in any message of the request. `model`: counts only calls of this model;
        `*` matches any text. Raises AssertionError, with a list of the calls, if the number of
        calls is wrong.
        """
        __tracebackhide__ = True
        calls = self.requests
        number = sum(is_match(call, contains, model) for call in calls)
        if number == times or (times is None and number):
            return
        wanted = "at least 1 call" if times is None else f"{times} call{'s' * (times != 1)}"
        wanted += f" of {model}" if model else ""
        wanted += f" with {json.dumps(contains, ensure_ascii=False)}" if contains else ""
        found = f"the test has made these calls:\n{list_of(calls)}" if calls else "there are none"
        raise AssertionError(f"expected {wanted}, but found {number}; {found}")

    def assert_all_rules_used(self) -> None:
        """Asserts that each rule of the script has answered at least one call.

        Raises AssertionError, with a list of the unused rules, if a rule has answered no call. If
        the test has not called `script`, checks the rules of the file that `--script` names, for
        which the calls of all tests count.
        """
        __tracebackhide__ = True
        unused = self._call("GET", "unused")["rules"]
        if unused:
            rules = [json.dumps(row["rule"], ensure_ascii=False) for row in unused]
            lines = [f"  {row['number']}. {rule}" for row, rule in zip(unused, rules, strict=True)]
            text = "\n".join(["no call has used these rules:", *lines])
            calls = list_of(self.requests) or "  none"
            raise AssertionError(f"{text}\nthe test has made these calls:\n{calls}")

    @property
    def output(self) -> str:
        """The emulator's stderr output during this test, cut to the last 16 KiB.

        Empty if pytest has not started the emulator itself.
        """
        return self._server.output

    def reset(self) -> None:
        """Deletes the rules, the faults and the list of calls of this test.

        The rules of the file that `--script` names then apply again.
        """
        __tracebackhide__ = True
        self._before_reset += self._newly_unmatched()
        self.discard()

    def discard(self) -> None:
        """Deletes all state of the account. Does nothing if the emulator has exited before."""
        __tracebackhide__ = True
        if self._lost_in is None:
            self._call("POST", "reset")
            self._num_checked = 0

    def begin_test(self) -> None:
        """Prepares this object for a test: deletes all state of the account."""
        __tracebackhide__ = True
        self._lost_in = None
        self.discard()
        _ = self.settings  # requested before the test, which may stop the emulator

    def check_matched(self) -> None:
        """Fails the test if no rule and no recording answered one of its calls.

        Does nothing if this test has failed already because the emulator does not respond.
        """
        __tracebackhide__ = True
        if self._lost_in == self._server.num_tests:
            return
        found = self._before_reset + self._newly_unmatched()
        self._before_reset = _Unmatched()
        if found.number:
            number = f"{found.number} call{'s' * (found.number != 1)}"
            calls = list_of(found.calls, found.number)
            pytest.fail(
                f"no rule of the script and no recording answered {number}:\n{calls}",
                pytrace=False,
            )

    @property
    def _prefix(self) -> str:
        return f"{self._server.root}/_emulator/accounts/{self.account_id}"

    def _newly_unmatched(self) -> _Unmatched:
        """Returns the unmatched calls that this method has not returned before."""
        __tracebackhide__ = True
        listed = self._call("GET", "unmatched")
        if self._num_restarts != self._server.num_restarts:
            self._num_restarts = self._server.num_restarts
            self._last_checked_id = self._num_checked = 0
        rows = [row for row in listed["requests"] if row["id"] > self._last_checked_id]
        self._last_checked_id = max([self._last_checked_id, *(row["id"] for row in rows)])
        # If the test has reset the emulator itself, `num_unmatched` may be smaller than before.
        number = max(listed["num_unmatched"] - self._num_checked, len(rows))
        self._num_checked = listed["num_unmatched"]
        return _Unmatched(self._entries(rows[:MAX_LISTED]), number)

    def _entries(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        __tracebackhide__ = True
        try:
            return [self._call("GET", f"requests/{row['id']}") for row in rows]
        except ControlError as error:
            raise _Incomplete(str(error)) from None

    def _call(self, method: str, name: str, body: object = None) -> Any:
        """Sends a request to the endpoint `/_emulator/NAME` of the account. Returns its JSON.

        Raises ValueError with the emulator's error messages if the emulator rejects the request.
        Fails the test if the emulator does not respond.
        """
        __tracebackhide__ = True
        path = f"/_emulator/accounts/{self.account_id}/_emulator/{name}"
        try:
            value = self._server.request(method, path, body)
            self._lost_in = None
            return value
        except OSError as error:
            self._lost_in = self._server.num_tests
            is_exiting = isinstance(error, ConnectionError)
            reason = self._server.exit_reason(is_exiting=is_exiting)
            what = f"the emulator {reason}" if reason else self._what_failed(error)
            after = "; it is started again for the next test" if reason else ""
            output = f":\n{self.output}" if self.output else ""
            failure = pytest.fail.Exception(f"{what}{after}{output}", pytrace=False)
        raise failure

    def _what_failed(self, error: OSError) -> str:
        return str(error) if isinstance(error, NotAnEmulator) else self._server.silence(error)


@dataclass(frozen=True, slots=True)
class _Unmatched:
    """Unmatched calls: the journal entries of some of them, and their number.

    The number also counts calls that the journal has dropped.
    """

    calls: list[dict[str, Any]] = field(default_factory=list)
    number: int = 0

    def __add__(self, other: _Unmatched) -> _Unmatched:
        return _Unmatched(self.calls + other.calls, self.number + other.number)


class _Incomplete(RuntimeError):
    def __init__(self, reason: str) -> None:
        super().__init__(
            f"the emulator no longer stores all calls of this test ({reason}): it keeps the last "
            f"{_MAX_CALLS} calls, at most 16 MiB; read `requests` earlier, then call `reset`"
        )
