"""Finds models' weights in the models folder, and records which files llama.cpp can load."""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from workers_ai_emulator.errors import WeightsUnusable
from workers_ai_emulator.files import one_line, read_small_text, write_text_atomically
from workers_ai_emulator.models.catalog import ModelSpec
from workers_ai_emulator.models.manifest import disk_errors, manifest_path
from workers_ai_emulator.models.stand_in import embedding_stand_in, stand_in

# The name of a JSON file in the models folder. The keys of the JSON object are the paths of the
# GGUF files that llama.cpp has loaded in a test subprocess. The values are the results of
# `_fingerprint` at the time of the test.
_VERIFIED_FILES = ".verified.json"


@dataclass(frozen=True, slots=True)
class Weights:
    """The GGUF file that contains a model's weights.

    `is_trusted`: True for the stand-in model. All other files could crash llama.cpp, so the server
    first loads them in a subprocess, as a test.
    """

    path: Path
    is_trusted: bool = False

    @property
    def name(self) -> str:
        """The file name without `.gguf`. Responses contain it in the header `x-emulator-model`.

        Bytes of the file name that are not UTF-8 are replaced.
        """
        return os.fsencode(self.path.stem).decode("utf-8", "replace")


class Store:
    """The models folder, which contains the weights of all models.

    If a method raises WeightsUnusable, the message tells the user what to do.
    """

    def __init__(self, models_dir: Path, *, num_threads: int) -> None:
        self.models_dir = models_dir
        self._num_threads = num_threads

    def path(self, spec: ModelSpec) -> Path:
        """Returns the path of the model's weights file, which may be missing."""
        return self.models_dir / spec.weights_file

    def weights(self, spec: ModelSpec) -> Weights:
        """Returns a model's own weights, or the stand-in model if the own weights are missing.

        Converts the stand-in model on first use. Raises WeightsUnusable if the own weights are
        missing and the stand-in model cannot replace them, or if the operating system refuses
        access to a file or folder.
        """
        try:
            return self._weights(spec)
        except OSError as error:
            path = one_line(str(error.filename or self.path(spec)))
            raise WeightsUnusable(
                f"{path} cannot be read: {error.strerror or error}; give yourself access to it, or "
                "choose another folder with --models-dir"
            ) from error

    def _weights(self, spec: ModelSpec) -> Weights:
        own = self.path(spec)
        if _exists(own):
            return Weights(own)
        if spec.stand_in is None:
            how = f"run `workers-ai-emulator pull {spec.name}`" if spec.hub_file else "put it there"
            raise WeightsUnusable(f"{spec.name} has no weights: {own} is missing; {how}")
        if spec.embedding is not None:
            return Weights(embedding_stand_in(self.models_dir), is_trusted=True)
        path = stand_in(self.models_dir, spec.stand_in, num_threads=self._num_threads)
        return Weights(path, is_trusted=True)

    def is_verified(self, path: Path) -> bool:
        """Returns whether llama.cpp has already loaded the file in a test subprocess.

        Returns False if the file or the version of llama-cpp-python has changed since the test.
        """
        return self._verified_files().get(str(path.absolute())) == _fingerprint(path)

    def mark_verified(self, path: Path) -> None:
        """Records that llama.cpp has loaded the file in a test subprocess.

        Ignores write errors. After a write error, the server repeats the test at its next start.
        """
        self._write_verified(self._verified_files() | {str(path.absolute()): _fingerprint(path)})

    def unmark_verified(self, path: Path) -> None:
        """Removes the record that llama.cpp has loaded the file in a test subprocess.

        Ignores write errors.
        """
        verified = self._verified_files()
        if verified.pop(str(path.absolute()), None):
            self._write_verified(verified)

    def _write_verified(self, verified: Mapping[str, Any]) -> None:
        with suppress(OSError):
            write_text_atomically(self.models_dir / _VERIFIED_FILES, _to_json(verified))

    def _verified_files(self) -> dict[str, Any]:
        try:
            verified = json.loads(read_small_text(self.models_dir / _VERIFIED_FILES))
        except (ValueError, RecursionError):
            return {}
        return verified if isinstance(verified, dict) else {}

    def remove(self, spec: ModelSpec) -> list[Path]:
        """Deletes a model's weights, the JSON file with their sha256, and incomplete downloads.

        Deletes nothing if the weights are outside the models folder. Returns the paths of the
        deleted files. Raises WeightsUnusable if a file cannot be deleted.
        """
        own = self.path(spec)
        # Unlike `Path.resolve`, `realpath` raises no exception if links form a loop.
        folder = os.path.realpath(self.models_dir)
        if not Path(os.path.realpath(own)).is_relative_to(folder):
            return []
        parts = own.parent.glob(f"{glob.escape(own.name)}.*.part")
        found = [own, manifest_path(own), *parts]
        deleted = [path for path in found if os.path.lexists(path)]
        for path in deleted:
            with disk_errors(path):
                path.unlink()
        return deleted


def _exists(path: Path) -> bool:
    """Returns whether a path exists.

    Raises OSError if the operating system refuses access. `Path.exists` returns False in this case
    since Python 3.14.
    """
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a NUL character
        return False
    return True


def _fingerprint(path: Path) -> list[Any]:
    """Returns a file's size and modification time, and the version of llama-cpp-python.

    If one of these values has changed, the server tests again whether llama.cpp can load the file.
    """
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, version("llama-cpp-python")]


def _to_json(value: Any) -> str:
    return json.dumps(value, indent=2) + "\n"
