"""Reads and edits the models file, `models.toml`, which adds models or replaces built-in models.

The file has one table for each model, for example:

["@cf/meta/llama-3.1-8b-instruct"]
file = "llama-3.1-8b.Q4_K_M.gguf"        # next to models.toml, absolute, or a path in `repo`
repo = "someone/Llama-3.1-8B-GGUF"       # the repository on the hub that `pull` downloads from
revision = "0123abcd…"                   # branch, tag or commit of `repo`; default: main
context_length = 8192
chat_template = "llama-3.1.jinja"        # a file that replaces the template inside the weights
description = "for tests"
defaults = { max_tokens = 512, temperature = 0.2 }
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from workers_ai_emulator.errors import SettingInvalid
from workers_ai_emulator.files import write_text_atomically
from workers_ai_emulator.models.catalog import CATALOG, HubFile, ModelSpec
from workers_ai_emulator.models.validator import SchemaMismatch

FILE_NAME = "models.toml"
_NAME = re.compile(r"@(cf|hf)/[^/\s]+/[^/\s]+")
_NAME_HELP = "a model's name has the form @cf/author/model or @hf/author/model"
_REPO = re.compile(r"[\w.-]+/[\w.-]+")
# Our texts for two of pydantic's error types. Errors of other types keep pydantic's text.
_REASONS = {"extra_forbidden": "there is no such key", "missing": "is missing"}
_Text = Annotated[str, Field(min_length=1)]


class _Defaults(BaseModel):
    """The key `defaults` of a model in `models.toml`: default values of request parameters.

    This class checks only the types of the values. The model's JSON schema checks their limits.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    repetition_penalty: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None


class _Entry(BaseModel):
    """The table of one model in `models.toml`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    file: _Text
    repo: _Text | None = None
    revision: _Text | None = None
    context_length: Annotated[int, Field(ge=256)] | None = None
    chat_template: _Text | None = None
    description: _Text | None = None
    defaults: _Defaults = _Defaults()


@dataclass(frozen=True, slots=True)
class _Mistake:
    """A mistake in `models.toml`: an invalid value, or a missing or unknown key.

    `keys`: the path of keys to the mistake; the first key is the model's name. `reason`: a text for
    the user.
    """

    keys: Sequence[str]
    reason: str


def models_file(models_dir: Path, chosen: Path | None) -> Path:
    """Returns the path of the models file.

    This is `chosen`, or `models.toml` in the models folder if `chosen` is None.
    """
    return chosen or models_dir / FILE_NAME


def read_catalog(models_dir: Path, chosen: Path | None = None) -> dict[str, ModelSpec]:
    """Returns the built-in models and the models in the models file, by name.

    A model in the models file replaces the built-in model with the same name. The models file is
    `chosen`, which must exist. If `chosen` is None, it is `models.toml` in the models folder, which
    may be missing. Raises SettingInvalid with one line for each mistake in the models file.
    """
    path = models_file(models_dir, chosen)
    if chosen is None and not path.exists():
        return dict(CATALOG)
    text, tables = _load(path)
    mistakes: list[_Mistake] = []
    specs = [_Table(name, of, path.parent, mistakes).spec() for name, of in tables.items()]
    if mistakes:
        raise SettingInvalid("\n".join(_line(path, text, mistake) for mistake in mistakes))
    return CATALOG | {spec.name: spec for spec in specs if spec}


def check_name(name: str) -> None:
    """Raises SettingInvalid unless `name` has the form `@cf/author/model` or `@hf/author/model`."""
    if not _NAME.fullmatch(name):
        raise SettingInvalid(f"{name}: {_NAME_HELP}")


def add_entry(path: Path, name: str, file: str) -> None:
    """Sets the GGUF file of the model `name` in the models file. Adds the model if it is missing.

    Removes the model's keys `repo` and `revision`, and leaves the rest of the models file
    unchanged. Raises SettingInvalid if the models file cannot be read or written.
    """
    import tomlkit  # this import is slow, and the server does not need it

    document = tomlkit.parse(_load(path)[0] if path.exists() else "")
    table = document.setdefault(name, tomlkit.table())
    table["file"] = file
    for key in ("repo", "revision"):  # these keys describe the origin of the replaced file
        table.pop(key, None)
    _write(path, tomlkit.dumps(document))


def remove_entry(path: Path, name: str) -> bool:
    """Removes the table of the model `name` from the models file.

    Returns False if the models file does not contain the model. Raises SettingInvalid if the models
    file cannot be read or written.
    """
    if not path.exists():
        return False
    import tomlkit

    document = tomlkit.parse(_load(path)[0])
    if name not in document:
        return False
    del document[name]
    _write(path, tomlkit.dumps(document))
    return True


def _load(path: Path) -> tuple[str, dict[str, Any]]:
    try:
        text = path.read_text("utf-8")
        return text, tomllib.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        raise SettingInvalid(f"{path}: cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise SettingInvalid(f"{path}: is not TOML: {error}") from error


def _write(path: Path, text: str) -> None:
    try:
        write_text_atomically(path, text)
    except OSError as error:
        raise SettingInvalid(f"{path}: cannot be written: {error.strerror}") from error


class _Table:
    """Converts one model's table in `models.toml` to a ModelSpec.

    Adds the mistakes in the table to the list `mistakes`.
    """

    def __init__(self, name: str, table: Any, folder: Path, mistakes: list[_Mistake]) -> None:
        self._name = name
        self._table = table
        self._folder = folder
        self._mistakes = mistakes

    def spec(self) -> ModelSpec | None:
        """Returns the model that the table describes, and adds the table's mistakes to the list.

        If the table has mistakes, the result is None or a model that must not be used.
        """
        entry = self._entry()
        if entry is None:
            return None
        hub_file = self._hub_file(entry)
        spec = ModelSpec(
            self._name,
            # The path contains the repository: files with the same name that were pulled from
            # different repositories must not overwrite each other.
            Path(entry.repo, entry.file) if entry.repo else (self._folder / entry.file).absolute(),
            hub_file,
            context_length=entry.context_length,
            chat_template=self._chat_template(entry),
            description=entry.description,
        )
        return replace(spec, own_defaults=self._own_defaults(entry, spec))

    def _add_mistake(self, reason: str, *keys: str) -> None:
        self._mistakes.append(_Mistake([self._name, *keys], reason))

    def _entry(self) -> _Entry | None:
        if not _NAME.fullmatch(self._name):
            self._add_mistake(_NAME_HELP)
            return None
        try:
            return _Entry.model_validate(self._table)
        except ValidationError as error:
            for detail in error.errors():
                reason = _REASONS.get(detail["type"], detail["msg"])
                self._add_mistake(reason, *(str(key) for key in detail["loc"]))
            return None

    def _hub_file(self, entry: _Entry) -> HubFile | None:
        if entry.repo is None:
            if entry.revision is not None:
                self._add_mistake("needs the key repo", "revision")
            return None
        if not _REPO.fullmatch(entry.repo):
            self._add_mistake("must have the form owner/name", "repo")
        if ".." in Path(entry.file).parts or Path(entry.file).is_absolute():
            self._add_mistake("must be a path inside the repo", "file")
        return HubFile(entry.repo, entry.file, entry.revision or "main")

    def _chat_template(self, entry: _Entry) -> str | None:
        if entry.chat_template is None:
            return None
        path = self._folder / entry.chat_template
        try:
            return path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or error
            self._add_mistake(f"cannot read {path}: {reason}", "chat_template")
            return None

    def _own_defaults(self, entry: _Entry, spec: ModelSpec) -> dict[str, Any]:
        """Returns the default values of request parameters in the table.

        Adds a mistake for each value that the model's input schema rejects.
        """
        values = entry.defaults.model_dump(exclude_none=True)
        for key, value in values.items():
            try:
                spec.validator.validate({"prompt": "Hi", key: value})
            except SchemaMismatch as error:
                self._add_mistake(str(error), "defaults", key)
        return values


def _line(path: Path, text: str, mistake: _Mistake) -> str:
    """Returns the text for a mistake in the models file, in the form `FILE:LINE: KEYS: reason`."""
    keys = ".".join(k if re.fullmatch(r"[\w-]+", k) else f'"{k}"' for k in mistake.keys)
    return f"{path}:{_line_number(text, mistake.keys)}: {keys}: {mistake.reason}"


def _line_number(text: str, keys: Sequence[str]) -> int:
    """Returns the line number, in a TOML text, of the innermost of the nested `keys`.

    If the text does not contain this key, returns the line of its nearest parent in the text.
    """
    lines = text.splitlines()
    for depth in range(len(keys), 0, -1):
        for number in range(1, len(lines) + 1):
            if _has("\n".join(lines[:number]), keys[:depth]):
                return number
    return 1


def _has(text: str, keys: Sequence[str]) -> bool:
    """Returns whether a TOML text contains the path of nested `keys`.

    The text may be the first lines of a file. Returns False if these lines are not valid TOML.
    """
    try:
        value: Any = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return False
    for key in keys:
        if not isinstance(value, dict) or key not in value:
            return False
        value = value[key]
    return True
