"""The import rules: arrows go down only."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "emulator"
MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
}
LLAMA_DOORS = {
    "emulator.engine.devices",
    "emulator.engine.llama",
    "emulator.engine.llama_log",
    "emulator.engine.quantize",
    "emulator.engine.sampler",
}
ENGINE = [name for name in MODULES if name.startswith("emulator.engine.")]
PROGRAMS = {"emulator.engine.probe", "emulator.template_process"}  # run by themselves
HTTP_CLIENTS = {"emulator.backends.upstream", "emulator.recordings.cloudflare", "emulator.hub"}
HTTP = {"fastapi", "starlette", "sse_starlette", "uvicorn", "pydantic", "httpx", "httpx2"}


def imports(module: str) -> set[str]:
    """The modules that a module imports, wherever in it."""
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


def test_no_module_imports_itself_in_a_circle() -> None:
    graph = {module: imports(module) & MODULES.keys() - {module} for module in MODULES}
    while leaves := [module for module, needs in graph.items() if not needs & graph.keys()]:
        for module in leaves:
            del graph[module]
    assert not graph, f"these import each other: {sorted(graph)}"


@pytest.mark.parametrize("module", ENGINE)
def test_the_engine_knows_no_http_and_nothing_above_it(module: str) -> None:
    assert not packages(module) & HTTP
    above = {name for name in imports(module) if name.startswith("emulator")}
    assert all(n.startswith("emulator.engine") or n == "emulator.errors" for n in above), above


@pytest.mark.parametrize("module", MODULES)
def test_llama_cpp_has_five_doors(module: str) -> None:
    assert ("llama_cpp" in packages(module)) <= (module in LLAMA_DOORS)


@pytest.mark.parametrize("module", MODULES)
def test_the_hub_has_one_door(module: str) -> None:
    assert ("huggingface_hub" in packages(module)) <= (module == "emulator.hub")


@pytest.mark.parametrize("module", MODULES)
def test_other_servers_are_asked_by_few(module: str) -> None:
    assert ("httpx2" in packages(module)) <= (module in HTTP_CLIENTS)


@pytest.mark.parametrize("module", MODULES)
def test_only_the_command_line_prints(module: str) -> None:
    calls = [
        node
        for node in ast.walk(ast.parse(MODULES[module].read_text("utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    ]
    may_print = module.startswith("emulator.cli") or module in PROGRAMS
    assert may_print or not any(
        isinstance(call.func, ast.Name) and call.func.id == "print" for call in calls
    )
