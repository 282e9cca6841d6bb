"""Imports a user's GGUF files, and verifies and removes the weights of any model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from workers_ai_emulator.engine.errors import GgufInvalid
from workers_ai_emulator.engine.gguf import read_header
from workers_ai_emulator.errors import WeightsUnusable
from workers_ai_emulator.models import models_file
from workers_ai_emulator.models.catalog import ModelSpec
from workers_ai_emulator.models.download import Progress, link_or_copy, locked, sha256_of
from workers_ai_emulator.models.store import Manifest, Store


def import_weights(
    file: Path, name: str, store: Store, models_path: Path, progress: Progress
) -> None:
    """Links or copies a GGUF file into the models folder, and adds a model to `models.toml`.

    `name`: the model's name. Raises SettingInvalid if the name is invalid or `models.toml` cannot
    be written, WeightsUnusable if the file is not a usable GGUF file or the models folder contains
    another file with its name, and PullFailed if the file cannot be copied.
    """
    models_file.check_name(name)
    _check(file)
    target = store.models_dir / file.name
    sha256 = sha256_of(file, progress)
    with locked(target, progress):
        if target.exists() and not target.samefile(file) and sha256_of(target, progress) != sha256:
            raise WeightsUnusable(
                f"{target} is another file of the same name: rename one of the two"
            )
        if not target.exists():
            link_or_copy(file, target)
        Manifest.of(target, origin=f"imported from {file.absolute()}", sha256=sha256).write(target)
    models_file.add_entry(models_path, name, _relative(target, models_path.parent))
    progress.note(f"{name} is {target}")


def verify_weights(spec: ModelSpec, store: Store, progress: Progress) -> str:
    """Checks that a model's weights still have the sha256 from their download or import.

    Returns the result as a sentence for the user. Raises WeightsUnusable if the file is missing,
    is not a usable GGUF file, or has another sha256.
    """
    path = store.path(spec)
    if not path.exists():
        raise WeightsUnusable(f"{spec.name}: {path} is missing")
    _check(path)
    sha256 = sha256_of(path, progress)
    manifest = Manifest.read(path)
    if manifest is None:
        return f"{path} is a complete GGUF file without a known sha256; its sha256 is {sha256}"
    if manifest.sha256 != sha256:
        raise WeightsUnusable(
            f"{spec.name}: {path} is damaged: its sha256 is {sha256}, not {manifest.sha256}; run "
            f"`workers-ai-emulator models remove {spec.name}`, then pull or import it again"
        )
    Manifest.of(path, origin=manifest.origin, sha256=sha256).write(path)
    return f"{path} is unchanged, sha256 {sha256}"


def remove_weights(
    spec: ModelSpec, catalog: Mapping[str, ModelSpec], store: Store, models_path: Path
) -> Iterator[str]:
    """Deletes a model's weights, and removes the model from `models.toml`.

    Keeps the weights if another model uses them or if they are outside the models folder. Yields
    the lines to show to the user: which files were deleted or kept.
    """
    path = store.path(spec)
    others = [s.name for s in catalog.values() if s.name != spec.name and store.path(s) == path]
    if others:
        yield f"{path} stays: {', '.join(others)} uses it"
    else:
        deleted = store.remove(spec)
        yield from (f"deleted {file}" for file in deleted)
        if path.exists():
            yield f"{path} stays: it is outside of {store.models_dir}"
    if models_file.remove_entry(models_path, spec.name):
        yield f"removed {spec.name} from {models_path}"


def _relative(path: Path, folder: Path) -> str:
    """Returns `path` relative to `folder` if the folder contains it, otherwise its absolute path.

    A relative path in `models.toml` stays right if the user moves the folder.
    """
    path, folder = path.absolute(), folder.absolute()
    return str(path.relative_to(folder) if path.is_relative_to(folder) else path)


def _check(path: Path) -> None:
    """Raises WeightsUnusable unless the file is a GGUF file of a text-generation model."""
    try:
        read_header(path)
    except GgufInvalid as error:
        raise WeightsUnusable(f"{path} cannot be used: {error}") from error
