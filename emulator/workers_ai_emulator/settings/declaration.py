"""Declarations of settings, from which the flags, the help and the docs are generated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

AUTO = "auto"


@dataclass(frozen=True, slots=True)
class Setting:
    """Declares a field of `Settings`, as metadata of the field's annotation.

    `minimum` and `maximum` limit numbers. `parse` converts the flag's value, or each value of a
    repeated flag, to the field's; without it, the field stores the flag's value.
    """

    help: str
    _: KW_ONLY
    flag: str = ""  # without dashes; derived from the field's name if empty
    default_text: str = ""  # describes a default that is computed, or that is None or empty
    page: str = ""  # the page in docs/ with more information
    minimum: float | None = None
    maximum: float | None = None
    path: Literal["existing file", "folder"] | None = None
    refuses_blank: bool = False  # a blank variable is an error; of other settings it is ignored
    has_auto: bool = False  # the flag also takes `auto`, its default, which sets the field to None
    parse: Callable[[Declaration, Any], Any] | None = None


@dataclass(frozen=True, slots=True)
class Declaration:
    """A `Setting` with the name, type and default of its field."""

    name: str
    type: Any
    default: Any
    setting: Setting

    def __str__(self) -> str:
        """Names the flag and the environment variable, for error messages."""
        return f"--{self.flag} (or {env_var(self.flag)})"

    @property
    def flag(self) -> str:
        return self.setting.flag or self.name.replace("_", "-")

    @property
    def choices(self) -> tuple[str, ...]:
        """The values that a field of type Literal can have; empty for other types."""
        return get_args(self.type) if get_origin(self.type) is Literal else ()

    @property
    def is_repeatable(self) -> bool:
        """Whether the flag may be given several times."""
        return get_origin(self.type) in (tuple, frozenset) and self.setting.path is None

    @property
    def flag_type(self) -> Any:
        """The type of the flag's value, before `parse`."""
        if self.setting.path == "existing file":
            return Path | None
        if self.setting.has_auto:
            return str
        return list[str] | None if self.is_repeatable else self.type

    @property
    def flag_default(self) -> Any:
        """The flag's value that leaves the field at its default."""
        if self.setting.has_auto:
            return AUTO
        return None if get_origin(self.type) in (tuple, frozenset) else self.default

    @property
    def description(self) -> str:
        return self.setting.help + (" May be repeated." if self.is_repeatable else "")

    def value_of(self, given: Any) -> Any:
        """Returns the field's value for the flag's value `given`. Raises SettingInvalid."""
        if given == self.flag_default:
            return self.default
        if self.is_repeatable:
            return get_origin(self.type)(self._parse(value) for value in given)
        return self._parse(given)

    def _parse(self, given: Any) -> Any:
        return self.setting.parse(self, given) if self.setting.parse else given


def env_var(flag: str) -> str:
    return f"WORKERS_AI_EMULATOR_{flag.upper().replace('-', '_')}"


def declarations(defaults: object) -> dict[str, Declaration]:
    """Returns the declarations of all fields of a dataclass instance, by the fields' names."""
    found = {}
    for name, annotation in get_type_hints(type(defaults), include_extras=True).items():
        type_, setting = get_args(annotation)
        found[name] = Declaration(name, type_, getattr(defaults, name), setting)
    return found
