"""Tests that a module imports only from its own layer and from lower layers."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = "workers_ai_emulator"
PACKAGE = Path(__file__).parents[2] / "emulator" / ROOT
MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
}

# The layers, from the highest to the lowest.
LAYERS = [
    "__main__",
    "pytest_plugin",
    "cli",
    "interception",
    "launcher",
    "server",
    "app",
    "admin",
    "routes",
    "middleware",
    "backends",
    "runtime",
    "tasks",
    "prompts",
    "models",
    "wire",
    "engine",
    "settings",
    "network",
    "urls",
    "machine",
    "files",
    "json_values",
    "wildcards",
    "errors",
]

USES_LLAMA_CPP = {
    f"{ROOT}.engine.{name}"
    for name in (
        "batch",
        "devices",
        "embedding_runner",
        "llama",
        "llama_log",
        "quantize",
        "sampler",
    )
}
USES_LLGUIDANCE = {
    f"{ROOT}.engine.{name}" for name in ("grammar", "grammar_compiler", "grammar_process")
}
USES_HTTPX = {
    f"{ROOT}.backends.upstream",
    f"{ROOT}.middleware.recordings.cloudflare",
    f"{ROOT}.models.hub",
}
# Programs that run in their own process and therefore may print.
PROGRAMS = {f"{ROOT}.engine.probe"}
HTTP = {"fastapi", "starlette", "sse_starlette", "uvicorn", "pydantic", "httpx", "httpx2"}


def imports(module: str) -> set[str]:
    """Returns all modules that a module imports, including imports inside functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import"
            base = node.module or ""
            submodules = {f"{base}.{alias.name}" for alias in node.names} & MODULES.keys()
            found |= submodules or {base}
    return found


def packages(module: str) -> set[str]:
    return {name.split(".")[0] for name in imports(module)}


def layer(module: str) -> int | None:
    """Returns the index of the module's layer; None for the package itself."""
    name = module.removeprefix(ROOT).removeprefix(".")
    return LAYERS.index(name.split(".")[0]) if name else None


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_its_own_layer_and_lower_ones(module: str) -> None:
    own = layer(module)
    for imported in imports(module) & MODULES.keys():
        other = layer(imported)
        assert own is None or other is None or own <= other, f"{module} imports {imported}"


def test_imports_have_no_cycle() -> None:
    graph = {module: imports(module) & MODULES.keys() - {module} for module in MODULES}
    while leaves := [module for module, needs in graph.items() if not needs & graph.keys()]:
        for module in leaves:
            del graph[module]
    assert not graph, f"cycles between {sorted(graph)}"


def test_at_most_10_modules_are_outside_of_folders() -> None:
    assert len([*PACKAGE.glob("*.py")]) <= 10


@pytest.mark.parametrize("module", [name for name in MODULES if f"{ROOT}.engine" in name])
def test_the_engine_imports_no_http_library(module: str) -> None:
    assert not packages(module) & HTTP


@pytest.mark.parametrize("module", MODULES)
def test_only_listed_modules_import_llama_cpp(module: str) -> None:
    assert ("llama_cpp" in packages(module)) <= (module in USES_LLAMA_CPP)


@pytest.mark.parametrize("module", MODULES)
def test_only_listed_modules_import_llguidance(module: str) -> None:
    assert ("llguidance" in packages(module)) <= (module in USES_LLGUIDANCE)


@pytest.mark.parametrize("module", MODULES)
def test_only_one_module_imports_the_hub_client(module: str) -> None:
    assert ("huggingface_hub" in packages(module)) <= (module == f"{ROOT}.models.hub")


@pytest.mark.parametrize("module", MODULES)
def test_only_listed_modules_import_the_http_client(module: str) -> None:
    assert ("httpx2" in packages(module)) <= (module in USES_HTTPX)


@pytest.mark.parametrize("module", MODULES)
def test_only_the_command_line_prints(module: str) -> None:
    calls = [
        node
        for node in ast.walk(ast.parse(MODULES[module].read_text("utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    ]
    may_print = module.startswith(f"{ROOT}.cli") or module in PROGRAMS
    assert may_print or not any(
        isinstance(call.func, ast.Name) and call.func.id == "print" for call in calls
    )
