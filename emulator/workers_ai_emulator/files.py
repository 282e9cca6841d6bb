"""Writes files atomically."""

from __future__ import annotations

import os
from pathlib import Path


def write_text_atomically(path: Path, text: str) -> None:
    """Writes `text` as UTF-8, so that other processes see the old file or the new one, complete.

    Raises OSError.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    partial.write_text(text, "utf-8")
    partial.replace(path)
