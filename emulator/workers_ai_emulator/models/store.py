"""The folder of weights: what is there, where it came from, and whether it is still the same."""

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

_PROOFS = ".proven.json"  # files that llama.cpp has been seen to take


@dataclass(frozen=True, slots=True)
class Weights:
    """A GGUF file; `is_trusted` where nobody but us wrote it."""

    path: Path
    is_trusted: bool = False

    @property
    def name(self) -> str:
        """What it is called in answers."""
        return self.path.stem


@dataclass(frozen=True, slots=True)
class Manifest:
    """What is known of a file beside it, in `FILE.json`: its digest, and where it came from.

    `size` in bytes, `mtime_ns` as the file system has it: as long as both are as they were, the
    bytes are taken to be those that were checked.
    """

    origin: str
    sha256: str
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: Path, *, origin: str, sha256: str) -> Manifest:
        """For a file that has just been checked."""
        stat = path.stat()
        return cls(origin, sha256, stat.st_size, stat.st_mtime_ns)

    @classmethod
    def read(cls, path: Path) -> Manifest | None:
        """That of a file; None where there is none that can be read."""
        try:
            values: Mapping[str, Any] = json.loads(_manifest_path(path).read_text("utf-8"))
            return cls(**{name: values[name] for name in cls.__dataclass_fields__})
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, path: Path) -> None:
        """Beside the file, all at once. Raises WeightsUnusable."""
        with _translated(path):
            write_text_atomically(_manifest_path(path), _to_json(asdict(self)))

    def fits(self, path: Path) -> bool:
        """Whether the file is there and as it was when it was checked."""
        try:
            stat = path.stat()
        except OSError:
            return False
        return (stat.st_size, stat.st_mtime_ns) == (self.size, self.mtime_ns)


class Store:
    """The folder of weights. Raises WeightsUnusable with a next step."""

    def __init__(self, models_dir: Path, *, num_threads: int) -> None:
        self.models_dir = models_dir
        self._num_threads = num_threads

    def path(self, spec: ModelSpec) -> Path:
        """Where the model's own weights are, or would be."""
        return self.models_dir / spec.weights_file

    def weights(self, spec: ModelSpec) -> Weights:
        """The model's own weights if they are there, else the stand-in, converted if need be."""
        own = self.path(spec)
        if own.exists():
            return Weights(own)
        if spec.stand_in is None:
            how = f"run `workers-ai-emulator pull {spec.name}`" if spec.hub_file else "put it there"
            raise WeightsUnusable(f"{spec.name} has no weights: {own} is missing; {how}")
        path = stand_in(self.models_dir, spec.stand_in, num_threads=self._num_threads)
        return Weights(path, is_trusted=True)

    def is_verified(self, path: Path) -> bool:
        """Whether this llama.cpp has computed with the file, as it is, before."""
        return self._proofs().get(str(path.absolute())) == _proof(path)

    def mark_verified(self, path: Path) -> None:
        """It has now. A folder that cannot be written costs a trial every time."""
        proofs = self._proofs() | {str(path.absolute()): _proof(path)}
        with suppress(OSError):
            write_text_atomically(self.models_dir / _PROOFS, _to_json(proofs))

    def _proofs(self) -> dict[str, Any]:
        try:
            proofs = json.loads((self.models_dir / _PROOFS).read_text("utf-8"))
        except (OSError, ValueError):
            return {}
        return proofs if isinstance(proofs, dict) else {}

    def remove(self, spec: ModelSpec) -> list[Path]:
        """Delete the model's weights, what is known of them and what a broken download left.

        Only below the folder of models. Returns what was deleted. Raises WeightsUnusable.
        """
        own = self.path(spec)
        if not own.resolve().is_relative_to(self.models_dir.resolve()):
            return []
        parts = own.parent.glob(f"{glob.escape(own.name)}.*.part")
        found = [own, _manifest_path(own), *parts]
        deleted = [path for path in found if path.exists()]
        for path in deleted:
            with _translated(path):
                path.unlink()
        return deleted


def _proof(path: Path) -> list[Any]:
    """What must be as it was."""
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, version("llama-cpp-python")]


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise WeightsUnusable(
            f"cannot write or remove {error.filename or path}: {error.strerror}; check whose "
            "folder that is and how much space it has"
        ) from error


def _to_json(value: Any) -> str:
    return json.dumps(value, indent=2) + "\n"


def _manifest_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")
