"""Reads and writes manifests, which are JSON files with the origin and the sha256 of GGUF files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from workers_ai_emulator.errors import WeightsUnusable
from workers_ai_emulator.files import read_small_text, write_text_atomically


@dataclass(frozen=True, slots=True)
class Manifest:
    """The origin and the sha256 of a GGUF file.

    The manifest of the file `FILE` is stored beside it, as `FILE.json`. `origin`: a text that says
    where the GGUF file comes from. `size` (bytes) and `mtime_ns`: the size and modification time
    of the GGUF file when its sha256 was computed. A file that still has this size and modification
    time is regarded as unchanged.
    """

    origin: str
    sha256: str
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: Path, *, origin: str, sha256: str) -> Manifest:
        """Returns a new manifest for the file `path`, whose sha256 has just been computed."""
        stat = path.stat()
        return cls(origin, sha256, stat.st_size, stat.st_mtime_ns)

    @classmethod
    def read(cls, path: Path) -> Manifest | None:
        """Reads the manifest of the GGUF file `path`.

        Returns None if the manifest is missing or damaged.
        """
        try:
            values: Mapping[str, Any] = json.loads(read_small_text(manifest_path(path)))
            manifest = cls(**{name: values[name] for name in cls.__dataclass_fields__})
        except (ValueError, KeyError, TypeError, RecursionError):
            return None
        return manifest if manifest._has_types() else None

    def write(self, path: Path) -> None:
        """Stores the manifest of the GGUF file `path`, atomically.

        Raises WeightsUnusable if the manifest cannot be written.
        """
        with disk_errors(path):
            write_text_atomically(manifest_path(path), json.dumps(asdict(self), indent=2) + "\n")

    def matches(self, path: Path) -> bool:
        """Returns whether the file `path` exists and has the manifest's size and modification time.

        The content of the file is not read.
        """
        try:
            stat = path.stat()
        except OSError:
            return False
        return (stat.st_size, stat.st_mtime_ns) == (self.size, self.mtime_ns)

    def _has_types(self) -> bool:
        texts, numbers = (self.origin, self.sha256), (self.size, self.mtime_ns)
        return all(isinstance(t, str) for t in texts) and all(type(n) is int for n in numbers)


def manifest_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Context manager that converts an OSError in the `with` block to WeightsUnusable."""
    try:
        yield
    except OSError as error:
        raise WeightsUnusable(
            f"cannot write or remove {error.filename or path}: {error.strerror}; check the "
            "folder's owner and its free space"
        ) from error
