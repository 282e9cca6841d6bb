"""Generates Typer options from the declarations of the settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from inspect import Parameter, Signature
from pathlib import Path
from typing import Annotated, Any

import typer

from workers_ai_emulator.settings import Settings
from workers_ai_emulator.settings.declaration import Declaration, declarations, env_var

DEFAULTS = Settings()
_DECLARATIONS = declarations(DEFAULTS)


def with_settings(command: Callable[[Settings], None]) -> Callable[..., None]:
    """Decorator for a command that takes `Settings`. Gives the command a flag for each setting.

    Typer reads the flags from the signature of the returned function.
    """

    @wraps(command)
    def run(**given: Any) -> None:
        command(Settings(**{name: _DECLARATIONS[name].value_of(given[name]) for name in given}))

    parameters = [_parameter(declaration) for declaration in _DECLARATIONS.values()]
    run.__signature__ = Signature(parameters)  # type: ignore[attr-defined] # Typer reads it
    return run


def option(name: str, **changes: Any) -> Any:
    """Returns the Typer option for the field `name` of the class `Settings`.

    `changes` replace attributes of the field's `Setting`, for example its help text.
    """
    declaration = _DECLARATIONS[name]
    declaration = replace(declaration, setting=replace(declaration.setting, **changes))
    setting, flag = declaration.setting, declaration.flag
    return typer.Option(
        f"--{flag}/--no-{flag}" if declaration.type is bool else f"--{flag}",
        envvar=env_var(flag),
        help=_help(declaration),
        min=None if setting.parse else setting.minimum,
        max=None if setting.parse else setting.maximum,
        exists=setting.path == "existing file",
        dir_okay=setting.path != "existing file",
        file_okay=setting.path != "folder",
    )


def _help(declaration: Declaration) -> str:
    """Returns the help text of a flag. It includes the default if Typer cannot show the default."""
    if declaration.flag_default is None and declaration.setting.default_text:
        return f"{declaration.description} Default: {declaration.setting.default_text}."
    return declaration.description


def _parameter(declaration: Declaration) -> Parameter:
    return Parameter(
        declaration.name,
        Parameter.KEYWORD_ONLY,
        default=declaration.flag_default,
        annotation=Annotated[declaration.flag_type, option(declaration.name)],
    )


ModelsDir = Annotated[Path, option("models_dir")]
ModelsFile = Annotated[Path | None, option("models_file")]
