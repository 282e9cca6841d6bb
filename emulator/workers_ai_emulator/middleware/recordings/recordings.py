"""The recordings of a server: which calls are recorded, which are replayed, from which folder."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp

from workers_ai_emulator.errors import SettingInvalid
from workers_ai_emulator.middleware.recordings.folder import Folder
from workers_ai_emulator.middleware.recordings.player import Player
from workers_ai_emulator.middleware.recordings.recorder import Recorder
from workers_ai_emulator.middleware.recordings.request import Json, RecordedRequest
from workers_ai_emulator.middleware.recordings.state import RecordingState
from workers_ai_emulator.settings import Settings
from workers_ai_emulator.wire.validation import shown

_MAX_ACCOUNTS = 10_000
_MAX_NAME = 200
# A part of a folder's name. It begins with no dot, so it names neither a parent folder nor a hidden
# one. Of the special characters, it has those of pytest's test ids, such as `test_a[1-x]`.
_PART = re.compile(r"[A-Za-z0-9_\[][A-Za-z0-9_.,=+@\[\]-]*")


class Recordings:
    """The player and the recorder, and the folder and the counts of each account.

    `default_backend`: the backend of calls that choose no backend. `source_name`: the backend whose
    responses are recorded, or `cloudflare`. `service`: the application that forwards calls to
    Cloudflare; None if responses of a backend are recorded. Raises SettingInvalid if the folder, a
    recording in it, or a setting for the connection to Cloudflare cannot be used.

    At most 10,000 accounts have counts of their own. A further account replaces the account whose
    last call is the longest time ago.
    """

    def __init__(self, settings: Settings) -> None:
        self.default_backend = settings.backend
        self.source_name = settings.record_from
        self.service = _cloudflare(settings) if settings.record_from == "cloudflare" else None
        self.player = Player(settings.replay_speed)
        self.recorder = Recorder(settings.record_from, keeps_times=settings.record_timing)
        self._mode = "none" if settings.backend == "replay" else settings.record_mode
        self._main = Folder(settings.cassettes)
        # By the name of the subfolder. Several threads write to it, so it is never iterated over.
        self._folders: dict[str, Folder] = {}
        self._prepare(settings.backend)
        self._shared = RecordingState(self._main)
        self._own: dict[str, RecordingState] = {}

    @property
    def needs_models(self) -> bool:
        """Whether the server may record responses of models that run on this machine.

        With the mode `once`, it records only if the folder and its subfolders have no recordings.
        """
        if self.default_backend != "record" or self.source_name != "llama" or self._mode == "none":
            return False
        return self._mode != "once" or not any(self._main.path.rglob("*.json"))

    def state_of(self, account: str | None) -> RecordingState:
        """Returns the folder and the counts of an account, or the shared ones if it is None."""
        if account is None:
            return self._shared
        # Moves the account to the end of the dict. So the first account in the dict, which is
        # dropped if there are too many, has sent no call for the longest time.
        state = self._own.pop(account, None) or RecordingState(self._shared.folder)
        self._own[account] = state
        if len(self._own) > _MAX_ACCOUNTS:
            del self._own[next(iter(self._own))]
        return state

    async def replays(self, backend: str, request: RecordedRequest, state: RecordingState) -> bool:
        """Returns whether a call is replayed. Otherwise, it is recorded.

        `backend`: the backend of the call, `record` or `replay`.
        """
        match "none" if backend == "replay" else self._mode:
            case "none":
                return True
            case "once":
                return not state.folder.was_empty
            case "new_episodes":
                paths = await asyncio.to_thread(state.folder.find, request)
                # Equal calls are all recorded until the next reset, because each one may get
                # another response.
                return bool(paths) and not state.num_begun[request.key]
        return False

    def folder_named(self, name: str | None) -> Folder:
        """Returns a subfolder of the folder that `--cassettes` names, or this folder for None.

        Raises ValueError if the name is not allowed, if a file has this name, or if a recording
        that may be replayed from the folder is damaged.
        """
        if name is None:
            return self._main
        if name not in self._folders:
            path = self._main.path / _checked_name(name)
            _check_no_file(path, self._main.path)
            # Another thread may have created the same folder in the meantime.
            self._folders.setdefault(name, Folder(path))
        if self._mode != "all":
            try:
                self._folders[name].check()
            except SettingInvalid as error:
                raise ValueError(str(error)) from error
        return self._folders[name]

    def use_folder(self, folder: Folder, account: str | None) -> None:
        """Sets the folder of an account's recordings, and resets the account's counts.

        `account`: None: sets the folder of all accounts for which no folder was set.
        """
        if account is not None:
            self._own[account] = RecordingState(folder)
            return
        before, self._shared = self._shared.folder, RecordingState(folder)
        self._own = {a: state for a, state in self._own.items() if state.folder is not before}

    async def describe(self, account: str | None) -> Json:
        """Returns the folder of an account, and how many calls used each recording in it.

        Lists the files of the folder in a thread.
        """
        folder = self.state_of(account).folder
        names = await asyncio.to_thread(folder.names)
        uses = self._num_uses(account)
        return {
            "folder": self._name_of(folder),
            "path": str(folder.path),
            "recordings": [{"file": name, "used": uses[name]} for name in names],
        }

    async def unused(self, account: str | None) -> list[str]:
        """Returns the names of the files from which no call of an account was replayed.

        `account`: None: the files that no account without a folder of its own has used. Returns no
        files if the server replays no calls. Lists the files of the folder in a thread.
        """
        uses = self._num_uses(account)
        is_replaying = self.default_backend in ("record", "replay") and self._mode != "all"
        if not is_replaying and not uses:
            return []
        names = await asyncio.to_thread(self.state_of(account).folder.names)
        return [name for name in names if not uses[name]]

    def reset(self, account: str | None = None) -> None:
        """Restores the state of the server's start, for one account or for all.

        Replay then begins with each call's first recording again, and the next recording of a call
        replaces all older recordings of the call. The account has no folder of its own any more.
        """
        if account is None:
            self._own.clear()
            self._shared = RecordingState(self._main)
        else:
            self._own.pop(account, None)

    def _prepare(self, backend: str) -> None:
        if backend not in ("record", "replay"):
            return
        if self._mode == "none":
            self._main.prepare_to_replay()
            return
        self._main.prepare_to_record()
        if self._mode != "all":
            self._main.check()

    def _name_of(self, folder: Folder) -> str | None:
        """Returns the name of a subfolder of the main folder; None for the main folder itself."""
        is_main = folder is self._main
        return None if is_main else folder.path.relative_to(self._main.path).as_posix()

    def _num_uses(self, account: str | None) -> Counter[str]:
        """Returns how many calls used each file, of one account or of all in the shared folder."""
        if account is not None:
            return self.state_of(account).num_uses
        own = [s for s in self._own.values() if s.folder is self._shared.folder]
        return sum((state.num_uses for state in own), self._shared.num_uses)


def parse_folder(body: Any) -> str | None:
    """Returns the name of a folder in the body of a control request.

    The body is `{"folder": "name"}`, or only the name; None stands for the folder that
    `--cassettes` names. Raises ValueError if the body is neither.
    """
    if isinstance(body, str):
        return body
    is_object = isinstance(body, dict) and [*body] == ["folder"]
    if not is_object or not isinstance(body["folder"], str | None):
        raise ValueError(
            'recordings: it takes {"folder": "NAME"}, with the name of a subfolder of --cassettes, '
            f'or {{"folder": null}} for --cassettes itself; not {shown(body)}'
        )
    name: str | None = body["folder"]
    return name


def _checked_name(name: str) -> str:
    parts = name.split("/")
    is_allowed = all(_PART.fullmatch(part) for part in parts) and len(name) <= _MAX_NAME
    if not is_allowed or name.lower().endswith(".json"):
        raise ValueError(
            f"folder: it takes the name of a subfolder of --cassettes, such as `test_weather` or "
            f"`weather/test_rain`: up to {_MAX_NAME} letters, digits and characters of `_.,=+@[]-`,"
            f" no part that begins with a dot, and no name that ends with .json; not {shown(name)}"
        )
    return name


def _check_no_file(path: Path, main: Path) -> None:
    """Raises ValueError if a file has the name of a folder, or of one of its parents in `main`."""
    for each in (path, *path.parents):
        if each == main:
            return
        if each.exists() and not each.is_dir():
            raise ValueError(f"folder: {each} is a file: choose another name, or remove the file")


def _cloudflare(settings: Settings) -> ASGIApp:
    # Imported only if calls are forwarded to Cloudflare, because the module `cloudflare` imports an
    # HTTP client, which is slow to import.
    from workers_ai_emulator.middleware.recordings.cloudflare import Cloudflare

    return Cloudflare(settings.cloudflare_url)
