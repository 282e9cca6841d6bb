"""Writes files atomically."""

from __future__ import annotations

import os
from pathlib import Path


def write_text_atomically(path: Path, text: str) -> None:
    """Writes `text` to the file `path` as UTF-8, atomically.

    Other processes read either the complete old file or the complete new file. Raises OSError if
    the file cannot be written.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    partial.write_text(text, "utf-8")
    partial.replace(path)
