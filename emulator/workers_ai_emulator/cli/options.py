"""Generates command-line options for Typer from the fields of the class `Settings`."""

from __future__ import annotations

import os
import re
from ast import literal_eval
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from difflib import get_close_matches
from functools import wraps
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.exceptions import TyperException

from workers_ai_emulator.cli.help import Command
from workers_ai_emulator.cli.output import print_to_stderr
from workers_ai_emulator.errors import SettingInvalid
from workers_ai_emulator.settings import Settings
from workers_ai_emulator.settings.declaration import Declaration, declarations, env_var
from workers_ai_emulator.settings.variables import unknown_variables

DEFAULTS = Settings()
_DECLARATIONS = declarations(DEFAULTS)
_PORT_VARIABLE = env_var("port")
# The beginning of Typer's message for a value that is none of a setting's choices.
_NOT_ONE_OF = re.compile(r"(?:Value error, )?('.*'|\".*\") is not one of ", re.DOTALL)


class CommandWithPort(Command):
    """A command that ignores WORKERS_AI_EMULATOR_PORT if Kubernetes or Docker has set it.

    If a Kubernetes service has the name `workers-ai-emulator`, Kubernetes sets the variable to a
    URL such as `tcp://10.96.0.12:8790` in every container of the namespace. Docker sets the same
    variable in containers that are linked to a container with this name.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        with _without_service_link():
            return super().parse_args(ctx, args)


def with_settings(command: Callable[[Settings], None]) -> Callable[..., None]:
    """Decorator for a command that takes `Settings`. Gives the command a flag for each setting.

    Typer reads the flags from the signature of the returned function.
    """
    return with_some_settings(*_DECLARATIONS)(command)


def with_some_settings(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Returns a decorator for a command whose first parameter is `Settings`.

    Gives the command a flag for each of the settings `names`; the other settings have their
    defaults. The other parameters of the command stay unchanged.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def run(**given: Any) -> None:
            values = {name: given.pop(name) for name in names}
            command(_settings(values), **given)

        _, *others = signature(command, eval_str=True).parameters.values()
        parameters = [other.replace(kind=Parameter.KEYWORD_ONLY) for other in others]
        parameters += [_parameter(_DECLARATIONS[name]) for name in names]
        run.__signature__ = Signature(parameters)  # type: ignore[attr-defined] # Typer reads it
        return run

    return decorate


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


def reachable_host(host: str) -> str:
    """Returns the host at which clients reach an emulator that listens on `host`, without brackets.

    Raises SettingInvalid if the value `host` of the flag or of its variable is invalid.
    """
    return Settings(host=_DECLARATIONS["host"].value_of(host)).base_url_host.strip("[]")


def error_text(error: TyperException) -> str:
    """Returns the text of an error in the command line or in a setting's environment variable.

    For a setting with choices, lists the choices, and suggests the one that is similar to the
    value.
    """
    text = error.format_message().replace("Value error, ", "", 1)  # pydantic's words
    declaration = _DECLARATIONS.get(getattr(getattr(error, "param", None), "name", None) or "")
    found = _NOT_ONE_OF.match(error.message)
    if declaration is None or not declaration.choices or found is None:
        return text
    *others, last = declaration.choices
    value = literal_eval(found[1])
    close = get_close_matches(value, declaration.choices, n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    return f"{declaration} takes {', '.join(others)} or {last}, not {value!r}{hint}"


def unknown_setting_variables() -> list[str]:
    """Returns the environment variables that have our prefix, but belong to no setting.

    Raises SettingInvalid if the name of such a variable is a misspelling.
    """
    flags = [declaration.flag for declaration in _DECLARATIONS.values()]
    return unknown_variables(os.environ, flags)


def settings_in_environment(*excluded: str) -> dict[str, Any]:
    """Returns the values of the settings that environment variables set, by flag.

    Leaves out secret settings, and the flags `excluded`. Raises TyperException or SettingInvalid if
    a value is invalid.
    """
    found: list[Settings] = []
    app = typer.Typer(add_completion=False)
    names = [name for name, setting in _DECLARATIONS.items() if setting.flag not in excluded]
    app.command()(with_some_settings(*names)(_appender(found)))
    app([], standalone_mode=False)
    flags = {_DECLARATIONS[name].flag for name in names}
    return {
        flag: value
        for flag, value in found[0].to_json().items()
        if flag in flags and os.environ.get(env_var(flag))
    }


def _appender(found: list[Settings]) -> Callable[[Settings], None]:
    def command(settings: Settings) -> None:
        found.append(settings)

    return command


@contextmanager
def _without_service_link() -> Iterator[None]:
    """Removes WORKERS_AI_EMULATOR_PORT from the environment during the `with` block if it is a URL.

    Kubernetes and Docker set this variable to a URL; users set it to a port. If the variable is a
    URL, prints a message to stderr.
    """
    value = os.environ.get(_PORT_VARIABLE, "")
    if not re.match(r"(tcp|udp|sctp)://", value):
        yield
        return
    print_to_stderr(
        f"ignoring {_PORT_VARIABLE}={value!a}: Kubernetes or Docker set it for a service of this "
        "name; a pod's `enableServiceLinks: false` prevents it"
    )
    del os.environ[_PORT_VARIABLE]
    try:
        yield
    finally:
        os.environ[_PORT_VARIABLE] = value


def _settings(given: Mapping[str, Any]) -> Settings:
    """Converts the values of flags, by the names of their settings, to `Settings`.

    Raises SettingInvalid if a value or an environment variable is invalid, or if the name of an
    environment variable is misspelt.
    """
    unknown_setting_variables()
    for name, value in given.items():
        _refuse_blank_variable(_DECLARATIONS[name], value)
    return Settings(**{name: _DECLARATIONS[name].value_of(given[name]) for name in given})


def _refuse_blank_variable(declaration: Declaration, given: Any) -> None:
    """Raises SettingInvalid if a setting's environment variable is blank but must have a value.

    For example, a CI system sets the variable of the API token to an empty text if the secret does
    not exist. Without this check, the server would then accept all requests. `given` is the value
    of the setting's flag. If the flag is set, the variable is not checked, because the flag
    replaces it.
    """
    variable = env_var(declaration.flag)
    is_blank = variable in os.environ and not os.environ[variable].strip()
    if declaration.setting.refuses_blank and is_blank and not given:
        raise SettingInvalid(
            f"{variable} is set, but empty: give it a value, or unset it (a CI system sets an "
            "empty value for a secret that does not exist)"
        )


def _help(declaration: Declaration) -> str:
    """Returns the help text of a flag.

    Typer adds the flag's default to the text. If the default is None, Typer adds nothing, so the
    text itself ends with `Setting.default_text`, a description of the default.
    """
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
