"""The README and the pages in docs/ agree with the code."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import typer
from workers_ai_emulator.cli import app
from workers_ai_emulator.models.catalog import CATALOG

from tests import settings_table
from tests.conformance import parity

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
PARITY = (ROOT / "docs" / "parity.md").read_text("utf-8")
SETTINGS = (ROOT / "docs" / "settings.md").read_text("utf-8")


def serve_flags() -> dict[str, str | None]:
    """Returns the environment variable of each flag of `serve`."""
    command = typer.main.get_command(app).commands["serve"]  # type: ignore[attr-defined]
    return {p.opts[0]: p.envvar for p in command.params if p.opts[0] != "--help"}


def test_the_settings_table_names_every_flag_and_no_other() -> None:
    assert set(re.findall(r"^\| `(--[a-z-]+)`", SETTINGS, re.MULTILINE)) == set(serve_flags())


def test_the_settings_table_is_that_of_the_declarations() -> None:
    assert settings_table.page() == SETTINGS, "run `python -m tests.settings_table`"


def test_the_flags_and_pages_that_the_readme_names_are_there() -> None:
    assert set(re.findall(r"`(--[a-z-]+)`", README)) <= set(serve_flags())
    assert all((ROOT / page).is_file() for page in re.findall(r"\]\((docs/[a-z-]+\.md)\)", README))


def test_the_commands_that_the_pages_show_are_there() -> None:
    group = typer.main.get_command(app)
    models = group.commands["models"].commands  # type: ignore[attr-defined]
    pages = README + (ROOT / "docs" / "models.md").read_text("utf-8")
    assert set(re.findall(r"\bmodels ([a-z]+) ?(?:NAME|FILE|\[)", pages)) <= set(models)
    assert set(models) <= set(re.findall(r"`models ([a-z]+)", pages))


def test_every_flag_has_its_environment_variable() -> None:
    for flag, env_var in serve_flags().items():
        assert env_var == "WORKERS_AI_EMULATOR_" + flag.removeprefix("--").upper().replace("-", "_")


def test_every_model_and_its_file_are_named() -> None:
    for spec in CATALOG.values():
        assert f"| `{spec.name}` | `{spec.weights_file}` |" in README


def test_the_parity_table_is_that_of_the_snapshots() -> None:
    assert parity.table() in PARITY


def test_every_dependency_has_its_reason() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    reasons = README.split("Dependencies:")[1]
    for requirement in project["dependencies"] + project["optional-dependencies"]["dev"]:
        name = re.split(r"[\[>=<]", requirement)[0]
        assert name.startswith("types-") or name in reasons, name


def test_every_make_target_exists() -> None:
    targets = re.findall(r"^make (\w+)", README, re.MULTILINE)
    makefile = (ROOT / "Makefile").read_text("utf-8")
    assert targets and all(re.search(f"^{t}:", makefile, re.MULTILINE) for t in targets)


def test_it_is_at_most_150_lines() -> None:
    assert len(README.splitlines()) <= 150
