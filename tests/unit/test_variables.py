"""Tests finding environment variables whose names are misspelt."""

from __future__ import annotations

import re

import pytest
from workers_ai_emulator.errors import SettingInvalid
from workers_ai_emulator.settings import Settings
from workers_ai_emulator.settings.declaration import declarations
from workers_ai_emulator.settings.variables import unknown_variables

from tests.pages import ROOT

SOURCES = {".py", ".cjs", ".mjs", ".js", ".sh", ".yml", ".yaml"}
FLAGS = [declaration.flag for declaration in declarations(Settings()).values()]


def unknown(*names: str) -> list[str]:
    return unknown_variables([f"WORKERS_AI_EMULATOR_{name}" for name in names], FLAGS)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("BACKND", "BACKEND"),
        ("API_TOKENS", "API_TOKEN"),
        ("SCRIPTS", "SCRIPT"),
        ("UPSTREAM_KEY", "UPSTREAM_API_KEY"),
        ("THREAD", "THREADS"),
        ("ADRESS", "ADDRESS"),
    ],
)
def test_a_misspelt_name_is_an_error_with_the_name_that_is_meant(name: str, meant: str) -> None:
    with pytest.raises(SettingInvalid, match=f"did you mean WORKERS_AI_EMULATOR_{meant}\\?$"):
        unknown(name)


def test_the_variables_of_all_settings_are_known() -> None:
    assert unknown(*(flag.upper().replace("-", "_") for flag in FLAGS), "ADDRESS") == []


def test_the_variables_that_the_project_reads_and_sets_are_known() -> None:
    """Searches the sources of the Python package, of the npm package and of the action."""
    folders = (ROOT / "emulator", ROOT / ".ci")
    paths = [path for folder in folders for path in folder.rglob("*") if path.suffix in SOURCES]
    text = "".join(path.read_text("utf-8") for path in paths if "node_modules" not in path.parts)
    names = set(re.findall(r"WORKERS_AI_EMULATOR_([A-Z][A-Z_]*[A-Z])\b", text))
    assert {"URL", "ACCOUNT", "AUTHORITY", "COMMAND", "STRICT", "TLS_ADDRESS"} <= names
    assert unknown(*names) == []


@pytest.mark.parametrize(
    "name",
    [
        "PORT_8790_TCP",
        "PORT_8790_TCP_ADDR",
        "SERVICE_HOST",
        "SERVICE_PORT",
        "SERVICE_PORT_HTTP",
        "TEST_SEED",
        "NAME",
        "ENV_PATH",
    ],
)
def test_variables_of_kubernetes_docker_and_the_tests_are_no_mistakes(name: str) -> None:
    assert unknown(name) == []


def test_another_name_is_unknown() -> None:
    assert unknown("COLOUR") == ["WORKERS_AI_EMULATOR_COLOUR"]
    assert unknown_variables(["WORKERS_AI", "PATH"], FLAGS) == []
