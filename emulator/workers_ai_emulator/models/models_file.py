"""`models.toml`: further names, or other weights for the ones we have. A table for each name.

["@cf/meta/llama-3.1-8b-instruct"]
file = "llama-3.1-8b.Q4_K_M.gguf"        # beside models.toml, or absolute, or in `repo`
repo = "someone/Llama-3.1-8B-GGUF"       # on the hub, for `pull`
revision = "0123abcd…"                   # of `repo`, else `main`
context_length = 8192
chat_template = "llama-3.1.jinja"        # a file, instead of the one inside the weights
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
_NAME_HELP = "a model's name is written @cf/author/model or @hf/author/model"
_REPO = re.compile(r"[\w.-]+/[\w.-]+")
_REASONS = {"extra_forbidden": "there is no such key", "missing": "is missing"}  # pydantic's types
_Text = Annotated[str, Field(min_length=1)]


class _Defaults(BaseModel):
    """Of a request's parameters; the schema has their limits."""

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
    """What a table may say."""

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
    """Something that a user must mend, at a key of a model's table."""

    keys: Sequence[str]
    reason: str


def models_file(models_dir: Path, chosen: Path | None) -> Path:
    """The models file that was chosen, or the one that belongs into the folder of models."""
    return chosen or models_dir / FILE_NAME


def read_catalog(models_dir: Path, chosen: Path | None = None) -> dict[str, ModelSpec]:
    """The built-in models and those of the models file, which win. None need be there but a chosen.

    Raises SettingInvalid with a line for each mistake.
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
    """Raises SettingInvalid for what is no model's name."""
    if not _NAME.fullmatch(name):
        raise SettingInvalid(f"{name}: {_NAME_HELP}")


def add_entry(path: Path, name: str, file: str) -> None:
    """Let `name` mean `file`, keeping all else in the models file as it is written.

    Raises SettingInvalid if the models file cannot be read or written.
    """
    import tomlkit  # the server only reads

    document = tomlkit.parse(_load(path)[0] if path.exists() else "")
    table = document.setdefault(name, tomlkit.table())
    table["file"] = file
    for key in ("repo", "revision"):  # where another file was at home
        table.pop(key, None)
    _write(path, tomlkit.dumps(document))


def remove_entry(path: Path, name: str) -> bool:
    """Forget what `name` means. False if the models file does not say."""
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
    """One model's table. What is wrong with it goes to `mistakes`."""

    def __init__(self, name: str, table: Any, folder: Path, mistakes: list[_Mistake]) -> None:
        self._name = name
        self._table = table
        self._folder = folder
        self._mistakes = mistakes

    def spec(self) -> ModelSpec | None:
        """The model; None, or something that must not be used, where there are mistakes."""
        entry = self._entry()
        if entry is None:
            return None
        hub_file = self._hub_file(entry)
        spec = ModelSpec(
            self._name,
            # What is pulled goes to a path that no other repository has.
            Path(entry.repo, entry.file) if entry.repo else (self._folder / entry.file).absolute(),
            hub_file,
            context_length=entry.context_length,
            chat_template=self._chat_template(entry),
            description=entry.description,
        )
        return replace(spec, own_defaults=self._own_defaults(entry, spec))

    def _blame(self, reason: str, *keys: str) -> None:
        self._mistakes.append(_Mistake([self._name, *keys], reason))

    def _entry(self) -> _Entry | None:
        if not _NAME.fullmatch(self._name):
            self._blame(_NAME_HELP)
            return None
        try:
            return _Entry.model_validate(self._table)
        except ValidationError as error:
            for detail in error.errors():
                reason = _REASONS.get(detail["type"], detail["msg"])
                self._blame(reason, *(str(key) for key in detail["loc"]))
            return None

    def _hub_file(self, entry: _Entry) -> HubFile | None:
        if entry.repo is None:
            if entry.revision is not None:
                self._blame("belongs to a repo: name that too", "revision")
            return None
        if not _REPO.fullmatch(entry.repo):
            self._blame("is written owner/name", "repo")
        if ".." in Path(entry.file).parts or Path(entry.file).is_absolute():
            self._blame("is a path inside the repo", "file")
        return HubFile(entry.repo, entry.file, entry.revision or "main")

    def _chat_template(self, entry: _Entry) -> str | None:
        if entry.chat_template is None:
            return None
        path = self._folder / entry.chat_template
        try:
            return path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or error
            self._blame(f"cannot read {path}: {reason}", "chat_template")
            return None

    def _own_defaults(self, entry: _Entry, spec: ModelSpec) -> dict[str, Any]:
        """Those that a request could say, too."""
        values = entry.defaults.model_dump(exclude_none=True)
        for key, value in values.items():
            try:
                spec.validator.validate({"prompt": "Hi", key: value})
            except SchemaMismatch as error:
                self._blame(str(error), "defaults", key)
        return values


def _line(path: Path, text: str, mistake: _Mistake) -> str:
    """`FILE:LINE: KEYS: reason`."""
    keys = ".".join(k if re.fullmatch(r"[\w-]+", k) else f'"{k}"' for k in mistake.keys)
    return f"{path}:{_line_number(text, mistake.keys)}: {keys}: {mistake.reason}"


def _line_number(text: str, keys: Sequence[str]) -> int:
    """The line where a key is said, or the nearest one above it that is."""
    lines = text.splitlines()
    for depth in range(len(keys), 0, -1):
        for number in range(1, len(lines) + 1):
            if _has("\n".join(lines[:number]), keys[:depth]):
                return number
    return 1


def _has(text: str, keys: Sequence[str]) -> bool:
    """Whether the beginning of a file says the key already."""
    try:
        value: Any = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return False
    for key in keys:
        if not isinstance(value, dict) or key not in value:
            return False
        value = value[key]
    return True
