"""What the commands' options have in common."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from workers_ai_emulator.errors import SettingInvalid

_MAX_NUMBER = 256  # of sequences llama.cpp takes, and more layers than models have
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def flag(name: str, help: str, **limits: Any) -> Any:
    """An option with its environment env_var."""
    return typer.Option(f"--{name}", envvar=env_var(name), help=help, **limits)


def env_var(name: str) -> str:
    return f"WORKERS_AI_EMULATOR_{name.upper().replace('-', '_')}"


ModelsDir = Annotated[Path, flag("models-dir", "Folder of the weights.", file_okay=False)]
ModelsFile = Annotated[
    Path | None,
    flag("models-file", "Further models; models.toml in that folder.", exists=True, dir_okay=False),
]


def number_or_auto(name: str, value: str, *, minimum: int) -> int | None:
    """None for `auto`. Raises SettingInvalid."""
    if value == "auto":
        return None
    if not value.isdecimal() or not minimum <= int(value) <= _MAX_NUMBER:
        raise SettingInvalid(
            f"--{name} (or {env_var(name)}) takes `auto` or a number from {minimum} to "
            f"{_MAX_NUMBER}, not {value!r}"
        )
    return int(value)


def size_or_auto(name: str, value: str) -> int | None:
    """Bytes, of `12GiB`, `500M` or the like; None for `auto`. Raises SettingInvalid."""
    if value == "auto":
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", value, re.IGNORECASE)
    if match is None:
        raise SettingInvalid(
            f"--{name} (or {env_var(name)}) takes `auto` or a size such as 12GiB, not {value!r}"
        )
    return int(float(match[1]) * _UNITS[match[2].upper()])
