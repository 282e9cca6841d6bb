"""The account of a request. Each account has its own rules, faults, journal and recordings.

Tests that share one emulator each use an account id of their own, so that they do not affect each
other. A request names its account in one of these ways; the first one in this list decides:

    x-emulator-account: ID                    a header
    /_emulator/accounts/ID/…                  a prefix of the path, which is then removed
    /client/v4/accounts/ID/…, /v1/ID/…        the account id in the path of Cloudflare's API
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

ACCOUNT_HEADER = "x-emulator-account"
# The account of clients that name none. Every other account id is valid, too.
DEFAULT_ACCOUNT = "0123456789abcdef0123456789abcdef"
ACCOUNT_MISTAKE = "account: it takes 32 hexadecimal digits (0-9, a-f), not {!r}"

_ACCOUNT_ID = re.compile(r"[0-9a-f]{32}")
_PREFIX = re.compile(r"/_emulator/accounts/(?P<id>[^/]+)(?P<path>/.*)?", re.DOTALL)
_MAX_ACCOUNTS = 10_000

_State = TypeVar("_State")


def is_account_id(text: str | None) -> bool:
    """Returns whether the text is an account id: 32 hexadecimal digits, in lower case."""
    return _ACCOUNT_ID.fullmatch(text or "") is not None


def split_prefix(path: str) -> tuple[str | None, str]:
    """Returns the account id in the prefix `/_emulator/accounts/ID`, and the path after the prefix.

    Without this prefix, returns None and the whole path.
    """
    match = _PREFIX.fullmatch(path)
    return (match["id"], match["path"] or "/") if match else (None, path)


class AccountStates(Generic[_State]):
    """A state that is shared by all accounts, and the states of accounts that have their own.

    `create`: returns a new state. Not thread-safe.
    """

    def __init__(self, create: Callable[[], _State]) -> None:
        self._create = create
        self.shared = create()
        self._own: dict[str, _State] = {}

    def find(self, account: str | None) -> _State | None:
        """Returns the own state of an account, or None if the account has none."""
        return None if account is None else self._own.get(account)

    def own(self, account: str | None) -> _State:
        """Returns the own state of an account, and creates it first if it is missing.

        Returns the shared state if `account` is None. Raises ValueError if 10,000 other accounts
        have their own states.
        """
        if account is None:
            return self.shared
        if account not in self._own and len(self._own) >= _MAX_ACCOUNTS:
            raise ValueError(
                f"{_MAX_ACCOUNTS} accounts have their own rules, which is the maximum: reset the "
                "accounts that you no longer use"
            )
        return self._own.setdefault(account, self._create())

    def discard(self, account: str) -> None:
        """Removes the own state of an account, if it has one."""
        self._own.pop(account, None)

    def clear(self) -> None:
        """Removes all states, and creates a new shared state."""
        self._own.clear()
        self.shared = self._create()

    def __iter__(self) -> Iterator[_State]:
        """Yields the shared state, then the own states."""
        yield self.shared
        yield from self._own.values()
