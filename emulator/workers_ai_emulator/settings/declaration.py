"""Classes to declare settings. Flags and docs/settings.md are generated from the declarations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from math import isfinite
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from workers_ai_emulator.errors import SettingInvalid
from workers_ai_emulator.urls import shown_url

AUTO = "auto"


@dataclass(frozen=True, slots=True)
class Setting:
    """Declares one setting, in the annotation of a field of the class `Settings`.

    `minimum` and `maximum` are the limits of a number. `parse` converts the flag's value to the
    value of the field. For a repeated flag, `parse` is called once for each value. If `parse` is
    None, the field stores the flag's value unchanged.
    """

    help: str
    _: KW_ONLY
    flag: str = ""  # the flag's name without `--`; if empty, the field's name with hyphens
    default_text: str = ""  # describes a default that is computed, None or empty
    page: str = ""  # the file in docs/ that explains the setting
    minimum: float | None = None
    maximum: float | None = None
    path: Literal["existing file", "folder"] | None = None
    refuses_blank: bool = False  # if True, a blank environment variable is an error
    is_secret: bool = False  # if True, no response of the server contains the value
    has_auto: bool = False  # if True, the flag's default is `auto`, which sets the field to None
    parse: Callable[[Declaration, Any], Any] | None = None


@dataclass(frozen=True, slots=True)
class Declaration:
    """A field of the class `Settings`: its name, type and default, and its `Setting`."""

    name: str
    type: Any
    default: Any
    setting: Setting

    def __str__(self) -> str:
        """Returns the names of the flag and the environment variable, for error messages."""
        return f"--{self.flag} (or {env_var(self.flag)})"

    @property
    def flag(self) -> str:
        return self.setting.flag or self.name.replace("_", "-")

    @property
    def choices(self) -> tuple[str, ...]:
        """The allowed values of a setting of the type Literal; empty for other types."""
        return get_args(self.type) if get_origin(self.type) is Literal else ()

    @property
    def is_repeatable(self) -> bool:
        """Whether the command line may contain the flag several times."""
        return get_origin(self.type) in (tuple, frozenset) and self.setting.path is None

    @property
    def flag_type(self) -> Any:
        """The type to which Typer converts the flag's text, before `Setting.parse` is called."""
        if self.setting.path == "existing file":
            return Path | None
        if self.setting.has_auto:
            return str
        return list[str] | None if self.is_repeatable else self.type

    @property
    def flag_default(self) -> Any:
        """The flag's value if the user sets none. `value_of` converts this value to `default`."""
        if self.setting.has_auto:
            return AUTO
        return None if get_origin(self.type) in (tuple, frozenset) else self.default

    @property
    def description(self) -> str:
        return self.setting.help + (" May be repeated." if self.is_repeatable else "")

    def value_of(self, given: Any) -> Any:
        """Converts the flag's value `given` to the field's value.

        Raises SettingInvalid if the flag's value is invalid.
        """
        if given == self.flag_default:
            return self.default
        if self.is_repeatable:
            return get_origin(self.type)(self._parse(value) for value in given)
        return self._parse(given)

    def shown(self, value: Any) -> Any:
        """Converts the field's value to JSON: a path to its absolute path, a set to a list.

        From a URL, removes the user name, the password and the query, which can contain secrets. An
        invalid URL becomes a text that does not contain it.
        """
        if isinstance(value, frozenset | tuple):
            return sorted(value)
        if isinstance(value, Path):
            return _absolute(value)
        return shown_url(value) if self.flag.endswith("-url") and value else value

    def _parse(self, given: Any) -> Any:
        if isinstance(given, float) and not isfinite(given):
            raise SettingInvalid(f"{self} takes a finite number, not {given}")
        return self.setting.parse(self, given) if self.setting.parse else given


def env_var(flag: str) -> str:
    return f"WORKERS_AI_EMULATOR_{flag.upper().replace('-', '_')}"


def _absolute(path: Path) -> str:
    try:
        return str(path.absolute())
    except FileNotFoundError:  # the working folder has been deleted
        return str(path)


def declarations(defaults: object) -> dict[str, Declaration]:
    """Returns a dict that maps the name of each field of `defaults` to its declaration.

    `defaults`: a dataclass instance with the defaults. The annotation of each of its fields
    contains a `Setting`.
    """
    found = {}
    for name, annotation in get_type_hints(type(defaults), include_extras=True).items():
        type_, setting = get_args(annotation)
        found[name] = Declaration(name, type_, getattr(defaults, name), setting)
    return found
