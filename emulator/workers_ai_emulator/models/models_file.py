"""Reads and edits the models file, `models.toml`, which adds models and replaces weights.

The file has one table for each model, for example:

["@cf/meta/llama-3.1-8b-instruct"]
file = "llama-3.1-8b.Q4_K_M.gguf"        # the weights: a path in `repo`. Without `repo`: a path
                                         # relative to models.toml, or an absolute path
repo = "someone/Llama-3.1-8B-GGUF"       # the repository on the hub that `pull` downloads from
revision = "0123abcd…"                   # branch, tag or commit of `repo`; default: main
context_length = 8192                    # tokens; overrides the flag --context-length
chat_template = "llama-3.1.jinja"        # a file; overrides the chat template in the weights
description = "for tests"
defaults = { max_tokens = 512, temperature = 0.2 }  # default values of request parameters
like = "@cf/qwen/qwen3-30b-a3b-fp8"      # a built-in model with the same schema and response form;
                                         # without `file`, also its weights
"""

from __future__ import annotations

import os
import re
import stat
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from workers_ai_emulator.errors import SettingInvalid
from workers_ai_emulator.files import (
    TextUnreadable,
    one_line,
    open_regular,
    read_small_text,
    write_text_atomically,
)
from workers_ai_emulator.models.catalog import CATALOG, suggestion
from workers_ai_emulator.models.lock_file import locked
from workers_ai_emulator.models.spec import (
    ADDED_TRAITS,
    IMPORTED_FOLDER,
    STAND_IN_FOLDER,
    HubFile,
    ModelSpec,
    is_model_name,
)
from workers_ai_emulator.models.toml_lines import key_lines
from workers_ai_emulator.models.validator import SchemaMismatch
from workers_ai_emulator.wire.validation import did_you_mean

if TYPE_CHECKING:
    from tomlkit import TOMLDocument

FILE_NAME = "models.toml"
_NAME_HELP = "a model's name has the form @cf/author/model or @hf/author/model"
_MAX_TEMPLATE_BYTES = 2**18
# tomllib takes quadratic time for keys with many dots, such as `a.b.c.d`. `_check_keys` counts the
# dots in each line of the models file, and squares the counts. The sum of the squares may be at
# most this number.
_MAX_DOTS_SQUARED = 10**6
_UNQUOTED_NAME = re.compile(r"^[ \t]*\[[ \t]*@", re.MULTILINE)
_NEEDS_QUOTES = '; write a model\'s name in quotes: ["@cf/author/model"]'
_STRING = re.compile(r""" "[^"]*" | '[^']*' """, re.VERBOSE)
_REPO = re.compile(r"[\w.-]+/[\w.-]+")
# Our texts for two of pydantic's error types. Errors of other types keep pydantic's text.
_REASONS = {"extra_forbidden": "there is no such key", "missing": "is missing"}
_Text = Annotated[str, Field(min_length=1)]
_MESSAGE = {"role": "user", "content": "Hi"}  # the schemas of all models accept this message


class _Defaults(BaseModel):
    """The key `defaults` of a model in `models.toml`: default values of request parameters.

    This class checks only the types of the values. `_Table` checks the values with the model's JSON
    schema.
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

    like: _Text | None = None
    file: _Text | None = None
    repo: _Text | None = None
    revision: _Text | None = None
    context_length: Annotated[int, Field(ge=256, lt=2**31)] | None = None
    chat_template: _Text | None = None
    description: _Text | None = None
    defaults: _Defaults = _Defaults()


@dataclass(frozen=True, slots=True)
class _Mistake:
    """A mistake in `models.toml`: an invalid value, or a missing or unknown key.

    `keys`: the keys that lead to the mistake, such as the model's name and `file`. `reason`: a text
    for the user.
    """

    keys: Sequence[str]
    reason: str


def models_file(models_dir: Path, chosen: Path | None) -> Path:
    """Returns the path of the models file: `chosen` if it is given.

    If `chosen` is None, the models file is `models.toml` in the models folder.
    """
    return chosen or models_dir / FILE_NAME


def read_catalog(models_dir: Path, chosen: Path | None = None) -> dict[str, ModelSpec]:
    """Returns the built-in models and the models in the models file, by name.

    A model in the models file replaces the weights of the built-in model with the same name.
    `chosen`: the path of the models file, which must exist. If `chosen` is None, reads
    `models.toml` in the models folder, if that file exists. Raises SettingInvalid with one line for
    each mistake in the models file.
    """
    path = models_file(models_dir, chosen)
    loaded = _load(path)
    if loaded is None:
        if chosen:
            raise SettingInvalid(one_line(f"{path}: cannot be read: there is no such file"))
        return dict(CATALOG)
    text, tables = loaded
    mistakes: list[_Mistake] = []
    specs = [
        _Table(name, of, path.parent, models_dir, mistakes).spec() for name, of in tables.items()
    ]
    if mistakes:
        lines = key_lines(text)
        raise SettingInvalid("\n".join(_line(path, lines, mistake) for mistake in mistakes))
    return CATALOG | {spec.name: spec for spec in specs if spec}


def check_name(name: str) -> None:
    """Raises SettingInvalid if `name` is not a model name, such as `@cf/author/model`."""
    if not is_model_name(name):
        raise SettingInvalid(one_line(f"{name}: {_NAME_HELP}{_similar(name)}"))


def _similar(name: str) -> str:
    """Returns a question, with a semicolon before it, if built-in models have similar names."""
    question = suggestion(CATALOG, name).strip()
    return f"; {question}" if question else ""


def add_entry(path: Path, name: str, file: Path) -> None:
    """Sets the GGUF file of the model `name` in the models file. Adds the model if it is missing.

    Removes the model's keys `repo` and `revision`, and leaves the rest of the models file
    unchanged. `path`: the models file. `file`: the GGUF file. Waits while another process edits the
    models file. Raises SettingInvalid if the models file cannot be read or written, or if the path
    `file` is not UTF-8.
    """
    import tomlkit  # this import is slow, and the server does not need tomlkit

    with _locked(path):
        loaded = _load(path)
        document = _edit(loaded[0] if loaded else "")
        table = document.setdefault(name, tomlkit.table())
        table["file"] = _text_of(path, file)
        for key in ("repo", "revision"):  # both keys describe the previous GGUF file
            table.pop(key, None)
        _write(path, tomlkit.dumps(document))


def remove_entry(path: Path, name: str) -> bool:
    """Removes the table of the model `name` from the models file.

    Returns False if the models file does not contain the model. Waits while another process edits
    the models file. Raises SettingInvalid if the models file cannot be read or written.
    """
    if not _has_entry(_load(path), name):  # without the lock, which needs a writable folder
        return False
    import tomlkit

    with _locked(path):
        loaded = _load(path)
        if loaded is None or not _has_entry(loaded, name):
            return False
        document = _edit(loaded[0])
        del document[name]
        _write(path, tomlkit.dumps(document))
    return True


def _has_entry(loaded: tuple[str, dict[str, Any]] | None, name: str) -> bool:
    return loaded is not None and name in loaded[1]


def _locked(path: Path) -> AbstractContextManager[None]:
    """Returns a context manager that holds the lock of the models file.

    Raises SettingInvalid on entry if the lock file cannot be created.
    """
    return locked(_target(path), partial(_unwritable, path))


def _target(path: Path) -> Path:
    """Returns the file that is written instead of `path`: the target if `path` is a link."""
    return Path(os.path.realpath(path))


def _path_of(text: str) -> Path:
    """Converts `text` to a path that the operating system gets as UTF-8, under every locale."""
    return Path(os.fsdecode(text.encode()))


def _text_of(path: Path, file: Path) -> str:
    """Converts the path `file` of a GGUF file to text that can be written to the models file.

    `path`: the path of the models file, for the error message. Raises SettingInvalid if the path
    `file` is not valid UTF-8.
    """
    try:
        return os.fsencode(file).decode()
    except UnicodeDecodeError as error:
        raise SettingInvalid(
            one_line(f"{path}: cannot contain {file}, whose name is not UTF-8: rename the file")
        ) from error


def _load(path: Path) -> tuple[str, dict[str, Any]] | None:
    """Returns the text and the tables of the models file; None if the file does not exist.

    Raises SettingInvalid if the file cannot be read or is not TOML.
    """
    text = ""
    try:
        text = read_small_text(path)
        _check_keys(text)
        return text, tomllib.loads(text)
    except TextUnreadable as error:
        if isinstance(error.__cause__, FileNotFoundError | NotADirectoryError):
            return None
        raise SettingInvalid(str(error)) from error
    except (ValueError, RecursionError) as error:  # RecursionError: nested too deeply
        reason = "its values are nested too deeply" if isinstance(error, RecursionError) else error
        quotes = _NEEDS_QUOTES if _UNQUOTED_NAME.search(text) else ""
        raise SettingInvalid(one_line(f"{path}: is not TOML: {reason}{quotes}")) from error


def _check_keys(text: str) -> None:
    """Raises ValueError if keys have so many dots that parsing the text could take minutes."""
    num_dots = (_STRING.sub("", line).count(".") for line in text.splitlines())
    if sum(number**2 for number in num_dots) > _MAX_DOTS_SQUARED:
        raise ValueError("its keys have too many parts")


def _edit(text: str) -> TOMLDocument:
    import tomlkit  # this import is slow, and the server does not need tomlkit

    try:
        return tomlkit.parse(text)
    except (ValueError, RecursionError) as error:
        raise SettingInvalid(f"the models file cannot be edited: {one_line(str(error))}") from error


def _write(path: Path, text: str) -> None:
    """Writes the models file. Keeps its permissions, and the line ends that its first line has.

    If `path` is a symbolic link, writes the link's target. Raises SettingInvalid if the file cannot
    be written.
    """
    target, mode = _target(path), None
    try:
        if target.exists():
            mode = stat.S_IMODE(target.stat().st_mode)
            with open_regular(target) as file:
                text = text.replace("\n", "\r\n") if file.readline()[-2:] == b"\r\n" else text
        write_text_atomically(target, text, mode=mode)
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError | NotImplementedError) -> SettingInvalid:
    reason = getattr(error, "strerror", None) or error
    return SettingInvalid(one_line(f"{path}: cannot be written: {reason}"))


class _Table:
    """Converts one model's table in `models.toml` to a ModelSpec.

    Adds the mistakes in the table to the list `mistakes`. `folder`: the folder of `models.toml`.
    """

    def __init__(
        self, name: str, table: Any, folder: Path, models_dir: Path, mistakes: list[_Mistake]
    ) -> None:
        self._name = name
        self._table = table
        self._folder = folder
        self._models_dir = models_dir
        self._mistakes = mistakes

    def spec(self) -> ModelSpec | None:
        """Returns the model that the table describes. Adds the table's mistakes to `mistakes`.

        If the table has mistakes, the result is None or a model that must not be used.
        """
        entry = self._entry()
        if entry is None:
            return None
        spec = self._base(entry)
        if entry.file is not None:
            spec = replace(
                spec,
                weights_file=self._weights_file(entry, entry.file),
                hub_file=self._hub_file(entry, entry.file),
                license=None,
                stand_in=None,
            )
        elif entry.like and (entry.repo or entry.revision):
            self._add_mistake("needs the key file", "repo" if entry.repo else "revision")
        spec = replace(
            spec,
            context_length=entry.context_length,
            chat_template=self._chat_template(entry),
            description=entry.description,
        )
        if spec.embedding is not None:
            self._refuse_keys_of_text_models(entry)
            return spec
        return replace(spec, own_defaults=self._own_defaults(entry, spec))

    def _base(self, entry: _Entry) -> ModelSpec:
        """Returns the model whose schema, traits and price the new model has."""
        if entry.like is None:
            added = ModelSpec(self._name, Path(), traits=ADDED_TRAITS)
            return CATALOG.get(self._name, added)
        if entry.like not in CATALOG:
            reason = f"must be the name of a built-in model{_similar(entry.like)}"
            self._add_mistake(reason, "like")
        base = CATALOG.get(entry.like, next(iter(CATALOG.values())))
        return replace(base, name=self._name, card_file=None, retired_on=None)

    def _refuse_keys_of_text_models(self, entry: _Entry) -> None:
        for key in ("context_length", "chat_template", "defaults"):
            if key in entry.model_fields_set:
                reason = "embedding models, rerankers and decision models have no such key"
                self._add_mistake(reason, key)

    def _add_mistake(self, reason: str, *keys: str) -> None:
        self._mistakes.append(_Mistake([self._name, *keys], reason))

    def _entry(self) -> _Entry | None:
        if not is_model_name(self._name):
            self._add_mistake(_NAME_HELP)
            return None
        if isinstance(self._table, dict) and not self._table.keys() & {"file", "like"}:
            self._add_mistake("is missing", "file")
        try:
            return _Entry.model_validate(self._table)
        except ValidationError as error:
            for detail in error.errors():
                keys = [str(key) for key in detail["loc"]]
                reason = _REASONS.get(detail["type"], detail["msg"])
                if detail["type"] == "extra_forbidden":
                    table = _Entry if len(keys) == 1 else _Defaults
                    reason += did_you_mean(keys[-1], [*table.model_fields])
                self._add_mistake(reason, *keys)
            return None

    def _hub_file(self, entry: _Entry, file: str) -> HubFile | None:
        if entry.repo is None:
            if entry.revision is not None:
                self._add_mistake("needs the key repo", "revision")
            return None
        if not _is_repo(entry.repo):
            self._add_mistake("must have the form owner/name", "repo")
        elif entry.repo.split("/")[0] in (IMPORTED_FOLDER, STAND_IN_FOLDER):
            self._add_mistake("its owner is the name of a folder that is reserved", "repo")
        path = Path(file)
        if ".." in path.parts or path.is_absolute() or not path.name:
            self._add_mistake("must be a path inside the repo", "file")
        return HubFile(entry.repo, file, entry.revision or "main")

    def _weights_file(self, entry: _Entry, file: str) -> Path:
        path = _path_of(file)
        # A downloaded file is in a subfolder with the name of its repository, so that files with
        # the same name from two repositories do not overwrite each other.
        path = _path_of(entry.repo) / path if entry.repo else (self._folder / path).absolute()
        try:
            (self._models_dir / path).stat()
        except (FileNotFoundError, NotADirectoryError):
            pass
        except (OSError, ValueError) as error:  # for example, the file name is too long
            reason = getattr(error, "strerror", None) or error
            self._add_mistake(f"cannot be read: {reason}", "file")
        return path

    def _chat_template(self, entry: _Entry) -> str | None:
        if entry.chat_template is None:
            return None
        try:
            path = self._folder / _path_of(entry.chat_template)
            return read_small_text(path, max_bytes=_MAX_TEMPLATE_BYTES)
        except TextUnreadable as error:
            self._add_mistake(str(error), "chat_template")
            return None

    def _own_defaults(self, entry: _Entry, spec: ModelSpec) -> dict[str, Any]:
        """Returns the default values that the table sets for request parameters.

        Adds a mistake for each value that the model's input schema rejects.
        """
        values = entry.defaults.model_dump(exclude_none=True)
        for key, value in values.items():
            try:
                spec.validator.validate({"messages": [_MESSAGE], key: value})
            except SchemaMismatch as error:
                self._add_mistake(str(error), "defaults", key)
        return values


def _is_repo(repo: str) -> bool:
    return bool(_REPO.fullmatch(repo)) and not {".", ".."} & set(repo.split("/"))


def _line(path: Path, lines: Mapping[tuple[str, ...], int], mistake: _Mistake) -> str:
    """Returns the text for a mistake in the models file, in the form `FILE:LINE: KEYS: reason`.

    LINE is the line of the key that has the mistake. If this key is missing in the file, LINE is
    the first line of the table in which the key is missing.
    """
    parents = (tuple(mistake.keys[:depth]) for depth in range(len(mistake.keys), 0, -1))
    number = next((lines[keys] for keys in parents if keys in lines), 1)
    keys = ".".join(k if re.fullmatch(r"[\w-]+", k) else f'"{k}"' for k in mistake.keys)
    return one_line(f"{path}:{number}: {keys}: {mistake.reason}")
