"""The models file, `models.toml`: adds models, or replaces built-in ones. One table per model.

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
# By pydantic's error type. Other types keep pydantic's text.
_REASONS = {"extra_forbidden": "there is no such key", "missing": "is missing"}
_Text = Annotated[str, Field(min_length=1)]


class _Defaults(BaseModel):
    """Defaults of request parameters. The model's schema checks their limits."""

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
    """The keys of a model's table."""

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
    """An invalid value: its keys, from the model's name inwards, and the reason."""

    keys: Sequence[str]
    reason: str


def models_file(models_dir: Path, chosen: Path | None) -> Path:
    """Returns the configured path, or the default path in the models folder."""
    return chosen or models_dir / FILE_NAME


def read_catalog(models_dir: Path, chosen: Path | None = None) -> dict[str, ModelSpec]:
    """Returns the built-in models, extended and overridden by the models file.

    The default models file may be missing; a configured one (`chosen`) may not. Raises
    SettingInvalid with one line for each mistake.
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
    """Raises SettingInvalid unless `name` has the form of a model's name."""
    if not _NAME.fullmatch(name):
        raise SettingInvalid(f"{name}: {_NAME_HELP}")


def add_entry(path: Path, name: str, file: str) -> None:
    """Sets the file of the model `name`, and leaves the rest of the models file unchanged.

    Raises SettingInvalid if the models file cannot be read or written.
    """
    import tomlkit  # slow to import, and the server does not need it

    document = tomlkit.parse(_load(path)[0] if path.exists() else "")
    table = document.setdefault(name, tomlkit.table())
    table["file"] = file
    for key in ("repo", "revision"):  # they belonged to the replaced file
        table.pop(key, None)
    _write(path, tomlkit.dumps(document))


def remove_entry(path: Path, name: str) -> bool:
    """Removes the model's table. Returns False if the models file does not contain it."""
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
    """Converts one model's table to a ModelSpec, and adds its mistakes to `mistakes`."""

    def __init__(self, name: str, table: Any, folder: Path, mistakes: list[_Mistake]) -> None:
        self._name = name
        self._table = table
        self._folder = folder
        self._mistakes = mistakes

    def spec(self) -> ModelSpec | None:
        """Returns the model. If it has added mistakes, the result is None or invalid."""
        entry = self._entry()
        if entry is None:
            return None
        hub_file = self._hub_file(entry)
        spec = ModelSpec(
            self._name,
            # Pulled files of different repositories must not overwrite each other.
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
        """Returns the defaults; each must be valid as a request's parameter."""
        values = entry.defaults.model_dump(exclude_none=True)
        for key, value in values.items():
            try:
                spec.validator.validate({"prompt": "Hi", key: value})
            except SchemaMismatch as error:
                self._add_mistake(str(error), "defaults", key)
        return values


def _line(path: Path, text: str, mistake: _Mistake) -> str:
    """Formats a mistake as `FILE:LINE: KEYS: reason`."""
    keys = ".".join(k if re.fullmatch(r"[\w-]+", k) else f'"{k}"' for k in mistake.keys)
    return f"{path}:{_line_number(text, mistake.keys)}: {keys}: {mistake.reason}"


def _line_number(text: str, keys: Sequence[str]) -> int:
    """Returns the line of the innermost key, or of its nearest parent that the file contains."""
    lines = text.splitlines()
    for depth in range(len(keys), 0, -1):
        for number in range(1, len(lines) + 1):
            if _has("\n".join(lines[:number]), keys[:depth]):
                return number
    return 1


def _has(text: str, keys: Sequence[str]) -> bool:
    """Returns whether the beginning of a file, up to some line, already contains the key."""
    try:
        value: Any = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return False
    for key in keys:
        if not isinstance(value, dict) or key not in value:
            return False
        value = value[key]
    return True
