"""The models folder: GGUF files, their manifests, and the list of verified files."""

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

_VERIFIED_FILES = ".verified.json"  # by path: what `_fingerprint` returned after a test load


@dataclass(frozen=True, slots=True)
class Weights:
    """A GGUF file. `is_trusted`: the file is ours, so it is not test-loaded in a subprocess."""

    path: Path
    is_trusted: bool = False

    @property
    def name(self) -> str:
        """The name of the weights in responses."""
        return self.path.stem


@dataclass(frozen=True, slots=True)
class Manifest:
    """The origin and the sha256 of a GGUF file, stored next to it in `FILE.json`.

    `size` (bytes) and `mtime_ns` are those of the file when its sha256 was computed. While both
    are the same, the file counts as unchanged.
    """

    origin: str
    sha256: str
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: Path, *, origin: str, sha256: str) -> Manifest:
        """Returns the manifest of a file whose sha256 has just been computed."""
        stat = path.stat()
        return cls(origin, sha256, stat.st_size, stat.st_mtime_ns)

    @classmethod
    def read(cls, path: Path) -> Manifest | None:
        """Returns the stored manifest of a file; None if it is missing or damaged."""
        try:
            values: Mapping[str, Any] = json.loads(_manifest_path(path).read_text("utf-8"))
            return cls(**{name: values[name] for name in cls.__dataclass_fields__})
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, path: Path) -> None:
        """Stores the manifest of the file `path` atomically. Raises WeightsUnusable."""
        with _disk_errors(path):
            write_text_atomically(_manifest_path(path), _to_json(asdict(self)))

    def matches(self, path: Path) -> bool:
        """Returns whether the file exists and is unchanged."""
        try:
            stat = path.stat()
        except OSError:
            return False
        return (stat.st_size, stat.st_mtime_ns) == (self.size, self.mtime_ns)


class Store:
    """The models folder. Methods raise WeightsUnusable, whose message names the next step."""

    def __init__(self, models_dir: Path, *, num_threads: int) -> None:
        self.models_dir = models_dir
        self._num_threads = num_threads

    def path(self, spec: ModelSpec) -> Path:
        """Returns the path of the model's own weights, whether or not the file exists."""
        return self.models_dir / spec.weights_file

    def weights(self, spec: ModelSpec) -> Weights:
        """Returns the model's own weights, or the stand-in model if the file does not exist.

        Converts the stand-in model if necessary. Raises WeightsUnusable if there is no file and
        the model has no stand-in.
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
        """Returns whether the file is unchanged since the installed llama.cpp test-loaded it."""
        return self._verified_files().get(str(path.absolute())) == _fingerprint(path)

    def mark_verified(self, path: Path) -> None:
        """Records a successful test load. Write errors are ignored: the next start tests again."""
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
        """Deletes the model's weights, their manifest, and the parts of incomplete downloads.

        Deletes nothing outside the models folder. Returns the deleted paths. Raises
        WeightsUnusable.
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
    """Returns values that change if the file or the installed llama.cpp changes."""
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, version("llama-cpp-python")]


@contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    """Raises WeightsUnusable in place of an OSError in the block."""
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
