"""Creates the recorder and the player of recordings from the settings."""

from __future__ import annotations

from starlette.types import ASGIApp

from workers_ai_emulator.middleware.recordings.folder import Folder
from workers_ai_emulator.middleware.recordings.player import Player
from workers_ai_emulator.middleware.recordings.recorder import Recorder
from workers_ai_emulator.settings import Settings


class Recordings:
    """The player and the recorder of one folder of recordings.

    `default_backend`: the backend of calls that choose no backend. `source_name`: the backend whose
    responses are recorded, or `cloudflare`. `service`: the application that forwards calls to
    Cloudflare; None if responses of a backend are recorded. Raises SettingInvalid if the folder, or
    a setting for the connection to Cloudflare, cannot be used.
    """

    def __init__(self, settings: Settings) -> None:
        folder = Folder(settings.cassettes)
        if settings.backend == "record":
            folder.prepare_to_record()
        elif settings.backend == "replay":
            folder.prepare_to_replay()
        self.default_backend = settings.backend
        self.source_name = settings.record_from
        self.service = _cloudflare(settings) if settings.record_from == "cloudflare" else None
        self.player = Player(folder, settings.replay_speed)
        self.recorder = Recorder(folder, settings.record_from)

    def reset(self, account: str | None = None) -> None:
        """Resets the player and the recorder to their state at the server's start.

        The player then begins with each call's first recording again. The next recording of a call
        replaces all older recordings of the call.
        """
        self.player.reset()
        self.recorder.reset()


def _cloudflare(settings: Settings) -> ASGIApp:
    # Imported only if calls are forwarded to Cloudflare, because the module `cloudflare` imports an
    # HTTP client, which is slow to import.
    from workers_ai_emulator.middleware.recordings.cloudflare import Cloudflare

    return Cloudflare(settings.cloudflare_url)
