"""The models folder: GGUF files, a manifest for each of them, and the list of verified files.

A manifest contains the origin and the sha256 of a GGUF file. A file is verified after llama.cpp has
loaded it once, in a subprocess, without a crash.
"""

from __future__ import annotations

import glob
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from workers_ai_emulator.errors import WeightsUnusable
from workers_ai_emulator.files import write_text_atomically
from workers_ai_emulator.models.catalog import ModelSpec
from workers_ai_emulator.models.stand_in import stand_in

# A JSON file in the models folder. It maps the path of each GGUF file that llama.cpp has
# test-loaded to the value of `_fingerprint` at that time.
_VERIFIED_FILES = ".verified.json"


@dataclass(frozen=True, slots=True)
class Weights:
    """The GGUF file that contains a model's weights.

    `is_trusted`: True for the stand-in model. Other files could crash llama.cpp, so they are first
    loaded in a subprocess, as a test.
    """

    path: Path
    is_trusted: bool = False

    @property
    def name(self) -> str:
        """The file name without `.gguf`. Responses contain it in the header `x-emulator-model`."""
        return self.path.stem


@dataclass(frozen=True, slots=True)
class Manifest:
    """The origin and the sha256 of a GGUF file, stored in the same folder as `FILE.json`.

    `size` (bytes) and `mtime_ns` are the file's size and modification time when its sha256 was
    computed. While neither of them changes, the file counts as unchanged.
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
            values: Mapping[str, Any] = json.loads(_manifest_path(path).read_text("utf-8"))
            return cls(**{name: values[name] for name in cls.__dataclass_fields__})
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, path: Path) -> None:
        """Stores the manifest of the GGUF file `path`, atomically.

        Raises WeightsUnusable if the manifest cannot be written.
        """
        with _disk_errors(path):
            write_text_atomically(_manifest_path(path), _to_json(asdict(self)))

    def matches(self, path: Path) -> bool:
        """Returns whether the file `path` exists and has the manifest's size and modification time.

        The content of the file is not read.
        """
        try:
            stat = path.stat()
        except OSError:
            return False
        return (stat.st_size, stat.st_mtime_ns) == (self.size, self.mtime_ns)


class Store:
    """The models folder, which contains the weights of all models.

    The methods raise WeightsUnusable with a message that names the user's next step.
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
        missing and the stand-in model cannot replace them.
        """
        own = self.path(spec)
        if own.exists():
            return Weights(own)
        if spec.stand_in is None:
            how = f"run `workers-ai-emulator pull {spec.name}`" if spec.hub_file else "put it there"
            raise WeightsUnusable(f"{spec.name} has no weights: {own} is missing; {how}")
        path = stand_in(self.models_dir, spec.stand_in, num_threads=self._num_threads)
        return Weights(path, is_trusted=True)

    def is_verified(self, path: Path) -> bool:
        """Returns whether the file is unchanged since this version of llama.cpp test-loaded it."""
        return self._verified_files().get(str(path.absolute())) == _fingerprint(path)

    def mark_verified(self, path: Path) -> None:
        """Records that llama.cpp has test-loaded the file successfully.

        Ignores write errors. The server then test-loads the file again after its next start.
        """
        verified = self._verified_files() | {str(path.absolute()): _fingerprint(path)}
        with suppress(OSError):
            write_text_atomically(self.models_dir / _VERIFIED_FILES, _to_json(verified))

    def _verified_files(self) -> dict[str, Any]:
        try:
            verified = json.loads((self.models_dir / _VERIFIED_FILES).read_text("utf-8"))
        except (OSError, ValueError):
            return {}
        return verified if isinstance(verified, dict) else {}

    def remove(self, spec: ModelSpec) -> list[Path]:
        """Deletes a model's weights, their manifest, and the bytes of incomplete downloads.

        Deletes nothing if the weights are outside the models folder. Returns the paths of the
        deleted files. Raises WeightsUnusable if a file cannot be deleted.
        """
        own = self.path(spec)
        if not own.resolve().is_relative_to(self.models_dir.resolve()):
            return []
        parts = own.parent.glob(f"{glob.escape(own.name)}.*.part")
        found = [own, _manifest_path(own), *parts]
        deleted = [path for path in found if path.exists()]
        for path in deleted:
            with _disk_errors(path):
                path.unlink()
        return deleted


def _fingerprint(path: Path) -> list[Any]:
    """Returns a file's size and modification time, and the version of llama-cpp-python.

    If one of these values has changed, llama.cpp must test-load the file again.
    """
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, version("llama-cpp-python")]


@contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    """Context manager that converts an OSError in its block to WeightsUnusable."""
    try:
        yield
    except OSError as error:
        raise WeightsUnusable(
            f"cannot write or remove {error.filename or path}: {error.strerror}; check the "
            "folder's owner and its free space"
        ) from error


def _to_json(value: Any) -> str:
    return json.dumps(value, indent=2) + "\n"


def _manifest_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")
