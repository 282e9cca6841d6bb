"""Finds out which emulator listens at an address: its process, backend and start time."""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from workers_ai_emulator.errors import CommandError
from workers_ai_emulator.settings.declaration import env_var

_RESPONSE_TIMEOUT_S = 5.0
_MAX_BYTES = 2**16


@dataclass(frozen=True, slots=True)
class Identity:
    """A running emulator. `pid` is None if its version does not report the process id.

    `settings` maps flags to values. `started_at` is None, and `settings` is empty, if the emulator
    has not sent them, for example because it requires an API token.
    """

    pid: int | None
    started_at: datetime | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    needs_token: bool = False

    def __str__(self) -> str:
        """Returns for example `process 1234, backend scripted, started 2026-01-31 12:00:00 UTC`."""
        parts = ["an old version" if self.pid is None else f"process {self.pid}"]
        if backend := self.settings.get("backend"):
            parts.append(f"backend {backend}")
        if self.started_at:
            parts.append(f"started {self.started_at:%Y-%m-%d %H:%M:%S} UTC")
        if self.needs_token:
            parts.append("requires an API token")
        return ", ".join(parts)


def identity_of(host: str, port: int, token: str | None = None) -> Identity | None:
    """Returns the identity of the emulator at `host` and `port`, or None if none responds there.

    `token`: an API token for emulators that require one.
    """
    match get_json(host, port, "healthz"):
        case {"status": str(), "pid": int(pid)}:
            pass
        case {"status": "alive"}:  # an emulator of version 0.1
            return Identity(None)
        case _:
            return None
    match get_json(host, port, "info", token):
        case {"started_at": str(started_at), "settings": dict(settings)}:
            return Identity(pid, datetime.fromisoformat(started_at), settings)
        case {"errors": [*_]}:
            return Identity(pid, needs_token=True)
    return Identity(pid)  # it does not respond in time


def check_settings(host: str, port: int, wanted: Mapping[str, object]) -> None:
    """Checks that the emulator at `host` and `port` has these settings.

    `wanted` maps flags to values. Raises CommandError if the emulator has other values. Settings
    that the emulator does not report are not checked.
    """
    if not wanted or (identity := identity_of(host, port)) is None:
        return
    actual = identity.settings
    others = [flag for flag in wanted if flag in actual and actual[flag] != wanted[flag]]
    if others:
        differences = "; ".join(
            f"--{flag} {actual[flag]}, but {env_var(flag)} is {wanted[flag]}" for flag in others
        )
        raise CommandError(
            f"the emulator that runs on {host} port {port} ({identity}) has other settings: "
            f"{differences}. Unset the variables, stop that emulator, or give --port 0 to start "
            "another one"
        )


def get_json(host: str, port: int, endpoint: str, token: str | None = None) -> object:
    """Returns the JSON value in the response of `/_emulator/ENDPOINT`.

    Returns None if there is no response, or if the response is not JSON.
    """
    try:
        return json_from(host, port, endpoint, token)
    except (OSError, http.client.HTTPException):
        return None


def json_from(host: str, port: int, endpoint: str, token: str | None = None) -> object:
    """Returns the JSON value in the response of `/_emulator/ENDPOINT`.

    Returns None if the response is not JSON, or if `host` cannot be a host name. Raises OSError or
    HTTPException if there is no response.
    """
    headers = {"authorization": f"Bearer {token}"} if token else {}
    try:
        connection = http.client.HTTPConnection(host, port, timeout=_RESPONSE_TIMEOUT_S)
        with closing(connection):
            connection.request("GET", f"/_emulator/{endpoint}", headers=headers)
            value: object = json.loads(connection.getresponse().read(_MAX_BYTES))
    except (http.client.InvalidURL, ValueError):  # UnicodeError, for a host name, is a ValueError
        return None
    return value


class ExpectedProcess:
    """The process that runs the expected emulator, or that has started it.

    Raises CommandError if no process has the process id `pid`.
    """

    def __init__(self, pid: int) -> None:
        import psutil  # this import is slow, and only `wait --pid` needs it

        self._pid = pid
        try:
            self._process = psutil.Process(pid)
        except psutil.Error as error:
            raise self._ended() from error

    def check(self, host: str, port: int) -> None:
        """Checks that the process runs, and that no other emulator listens at the address.

        Raises CommandError if the process has ended, or if an emulator responds at the address that
        is neither the process nor one of its descendants.
        """
        import psutil

        try:
            if not self._process.is_running() or self._process.status() == psutil.STATUS_ZOMBIE:
                raise self._ended()
            own = {self._pid, *(child.pid for child in self._process.children(recursive=True))}
        except psutil.Error as error:
            raise self._ended() from error
        found = identity_of(host, port)
        if found is not None and found.pid not in own:
            raise CommandError(
                f"another emulator listens on {host} port {port} ({found}), not process "
                f"{self._pid}: stop it, or start yours with another --port"
            )

    def _ended(self) -> CommandError:
        return CommandError(f"process {self._pid} has ended; its own output has the reason")
