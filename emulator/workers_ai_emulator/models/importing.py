"""Imports a user's GGUF files, and verifies and removes the weights of any model."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from workers_ai_emulator.engine.errors import GgufInvalid
from workers_ai_emulator.errors import WeightsUnusable
from workers_ai_emulator.files import one_line
from workers_ai_emulator.models import models_file
from workers_ai_emulator.models.catalog import CATALOG, IMPORTED_FOLDER, ModelSpec
from workers_ai_emulator.models.download import Progress, link_or_copy, locked, sha256_of
from workers_ai_emulator.models.manifest import Manifest
from workers_ai_emulator.models.store import Store
from workers_ai_emulator.models.weights_header import read_weights_header

_RESERVED_ENDINGS = (".json", ".lock", ".part", ".toml")


def import_weights(
    file: Path,
    name: str,
    catalog: Mapping[str, ModelSpec],
    store: Store,
    models_path: Path,
    progress: Progress,
) -> None:
    """Links or copies a GGUF file into the models folder, and adds the model to `models.toml`.

    Stores the file in the subfolder `imported`, so that it cannot replace weights from another
    source. `name`: the name of the model. A name that is not in the catalogue becomes that of a
    text-generation model. Raises SettingInvalid if `name` is invalid or `models.toml` cannot be
    edited. Raises WeightsUnusable if the file is not a GGUF file that this model can use, if its
    file name is not allowed, or if another imported file has the same file name. Raises PullFailed
    if the file cannot be read or copied.
    """
    models_file.check_name(name)
    _check_file_name(file)
    _check(file, catalog.get(name) or ModelSpec(name, file))
    target = store.models_dir / IMPORTED_FOLDER / file.name
    sha256 = sha256_of(file, progress)
    with locked(target, progress.note):
        if target.exists() and not target.samefile(file) and sha256_of(target, progress) != sha256:
            raise WeightsUnusable(
                f"{target} is another file of the same name: rename one of the two"
            )
        if not target.exists():
            store.unmark_verified(target)
            link_or_copy(file, target)
        origin = f"imported from {one_line(str(file.absolute()))}"
        Manifest.of(target, origin=origin, sha256=sha256).write(target)
    models_file.add_entry(models_path, name, _relative(target, models_path.parent))
    progress.note(f"{name} is {target}; a running server must be restarted to use it")


def verify_weights(spec: ModelSpec, store: Store, progress: Progress) -> str:
    """Checks that a model's weights file is unchanged since its download or import.

    Compares the file's sha256 with the stored sha256. If no sha256 is stored, only checks that the
    file is a usable GGUF file. If only the file's modification time has changed, updates the stored
    one; if that is impossible, shows the reason as progress. Returns the result as a sentence for
    the user. Raises WeightsUnusable if the file is missing, changed, or not a usable GGUF file.
    """
    path = store.path(spec)
    if not path.exists():
        raise WeightsUnusable(f"{spec.name}: {path} is missing")
    _check(path, spec)
    sha256 = sha256_of(path, progress)
    manifest = Manifest.read(path)
    if manifest is None:
        return f"{path} is a complete GGUF file without a known sha256; its sha256 is {sha256}"
    if manifest.sha256 != sha256:
        raise WeightsUnusable(
            f"{spec.name}: {path} is damaged: its sha256 is {sha256}, not {manifest.sha256}; run "
            f"`workers-ai-emulator models remove {spec.name}`, then pull or import it again"
        )
    if not manifest.matches(path):
        _update(manifest, path, progress)
    return f"{path} is unchanged, sha256 {sha256}"


def _update(manifest: Manifest, path: Path, progress: Progress) -> None:
    """Stores the new modification time of the unchanged file `path`.

    Only saves `pull` another check of the sha256. Therefore, a folder that cannot be written is no
    error.
    """
    try:
        Manifest.of(path, origin=manifest.origin, sha256=manifest.sha256).write(path)
    except WeightsUnusable as error:
        progress.note(f"the next `pull` checks the sha256 again: {error}")


def remove_weights(
    spec: ModelSpec, catalog: Mapping[str, ModelSpec], store: Store, models_path: Path
) -> Iterator[str]:
    """Deletes a model's weights, and removes the model from `models.toml`.

    Keeps the weights if they are outside the models folder, or if another model uses them. Several
    built-in models may have the same weights, which are deleted for all of them. Yields the lines
    to show to the user: which files were deleted or kept.
    """
    path = store.path(spec)
    others = [
        other.name
        for other in catalog.values()
        if other.name != spec.name
        and store.path(other) == path
        and not (_has_built_in_weights(spec) and _has_built_in_weights(other))
    ]
    if others:
        yield f"{path} stays: {', '.join(others)} uses it"
    else:
        deleted = store.remove(spec)
        yield from (f"deleted {file}" for file in deleted)
        if path.exists():
            yield f"{path} stays: it is outside of {store.models_dir}"
    if models_file.remove_entry(models_path, spec.name):
        yield f"removed {spec.name} from {models_path}"


def _has_built_in_weights(spec: ModelSpec) -> bool:
    """Returns whether the model is built in, and `models.toml` does not replace its weights."""
    built_in = CATALOG.get(spec.name)
    return built_in is not None and built_in.weights_file == spec.weights_file


def _check_file_name(file: Path) -> None:
    """Raises WeightsUnusable if the file's name is reserved or is not UTF-8.

    Names that begin with a dot or end with one of `_RESERVED_ENDINGS` are reserved for the
    emulator's own files in the models folder. `models.toml` cannot contain names that are not
    UTF-8.
    """
    if file.name.startswith(".") or file.name.endswith(_RESERVED_ENDINGS):
        endings = ", ".join(_RESERVED_ENDINGS)
        raise WeightsUnusable(
            f"{file}: names that begin with a dot or end with {endings} are reserved: rename the "
            "file to NAME.gguf"
        )
    try:
        os.fsencode(file.name).decode()
    except UnicodeDecodeError as error:
        raise WeightsUnusable(f"{file}: its name is not UTF-8: rename the file") from error


def _relative(path: Path, folder: Path) -> Path:
    """Returns `path` relative to `folder` if the folder contains it, otherwise its absolute path.

    A relative path in `models.toml` stays valid if the user moves the folder.
    """
    path, folder = path.absolute(), folder.absolute()
    return path.relative_to(folder) if path.is_relative_to(folder) else path


def _check(path: Path, spec: ModelSpec) -> None:
    """Raises WeightsUnusable if the file is not a GGUF file that the model can use."""
    try:
        read_weights_header(path, spec)
    except GgufInvalid as error:
        raise WeightsUnusable(f"{path} cannot be used: {error}") from error
