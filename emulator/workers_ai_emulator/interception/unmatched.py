"""Finds the calls of a command that no rule of the script and no recording answered."""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from contextlib import closing
from typing import Any

from workers_ai_emulator.errors import CommandError
from workers_ai_emulator.interception.proxy import Address
from workers_ai_emulator.launcher.calls import MAX_LISTED

_RESPONSE_TIMEOUT_S = 30.0
_BACKENDS = ("scripted", "replay")


class UnmatchedCalls:
    """The unmatched calls at an emulator since this object was created.

    `account`: only calls of this account; None: of all accounts. `token`: an API token that the
    emulator accepts. Raises CommandError if the emulator sends no list of unmatched calls, or if
    its backend answers every call.
    """

    def __init__(self, emulator: Address, account: str | None, token: str) -> None:
        self._emulator = emulator
        self._query = f"?account={account}" if account else ""
        self._token = token
        self._check_backend()
        before = self._listed()
        self._num_before: int = before["num_unmatched"]
        self._last_id = max((row["id"] for row in before["requests"]), default=0)

    def find(self) -> tuple[int, list[dict[str, Any]]]:
        """Returns the number of unmatched calls, and the journal entries of the first 20 ones.

        The number also counts calls that the journal has dropped, but no calls before a reset.
        """
        listed = self._listed()
        rows = [row for row in listed["requests"] if row["id"] > self._last_id]
        # After a reset, `num_unmatched` may be smaller than the number before.
        number = max(listed["num_unmatched"] - self._num_before, len(rows))
        return number, [self._get(f"requests/{row['id']}") for row in rows[:MAX_LISTED]]

    def _check_backend(self) -> None:
        settings: Mapping[str, Any] = self._get("info")["settings"]
        if settings["backend"] not in _BACKENDS:
            raise CommandError(
                f"--strict has no effect with the backend `{settings['backend']}`, which answers "
                "every call: set WORKERS_AI_EMULATOR_BACKEND=scripted"
            )

    def _listed(self) -> Any:
        return self._get(f"unmatched{self._query}")

    def _get(self, name: str) -> Any:
        """Returns the JSON in the response of `/_emulator/NAME`. Raises CommandError on failure."""
        headers = {"authorization": f"Bearer {self._token}"}
        try:
            connection = http.client.HTTPConnection(*self._emulator, timeout=_RESPONSE_TIMEOUT_S)
            with closing(connection):
                connection.request("GET", f"/_emulator/{name}", headers=headers)
                response = connection.getresponse()
                value = json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise self._failure(repr(error)) from error
        if response.status >= 400:
            raise self._failure(f"status {response.status}: {json.dumps(value)}")
        return value

    def _failure(self, reason: str) -> CommandError:
        return CommandError(
            f"--strict cannot read the unmatched calls at the emulator {self._emulator}: {reason}"
        )
