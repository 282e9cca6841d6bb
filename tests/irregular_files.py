"""Makes files that are not regular, which the emulator must refuse without waiting for bytes."""

from __future__ import annotations

import os
from pathlib import Path

KINDS = ("folder", "pipe", "device")


def make(path: Path, kind: str) -> None:
    """Makes a folder, a pipe or a link to an endless device, as `kind` says, at `path`."""
    match kind:
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "device":
            path.symlink_to("/dev/zero")
        case _:
            raise ValueError(kind)
