"""Installs npm packages into a cache folder, for tests that run JavaScript."""

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from filelock import FileLock

REPOSITORY = Path(__file__).resolve().parent.parent


def cache_folder(name: str = "npm") -> Path:
    configured = os.environ.get("WORKERS_AI_EMULATOR_TEST_CACHE")
    return (Path(configured) if configured else REPOSITORY / ".cache") / name


def require_node() -> None:
    require_programs("node", "npm")


def require_programs(*programs: str) -> None:
    """Skips the test if a program is missing; if the variable `CI` is set, fails instead."""
    missing = [program for program in programs if shutil.which(program) is None]
    if not missing:
        return
    reason = f"{' and '.join(missing)} not found on the PATH"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def install(package_specs: Sequence[str], folder: Path) -> Path:
    """Installs packages such as `name@version` into the folder, if they are not yet installed.

    Returns the path of the folder's node_modules.
    """
    node_modules = folder / "node_modules"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):  # several processes of pytest may install the same
        if not all(_is_installed(spec, node_modules) for spec in package_specs):
            _install(package_specs, folder)
    return node_modules


def _install(package_specs: Sequence[str], folder: Path) -> None:
    npm = shutil.which("npm")
    assert npm, "npm not found on the PATH"
    # Without --prefix, npm would use the package.json of a parent folder.
    options = ["--no-audit", "--no-fund", "--save-exact", "--prefix", str(folder)]
    subprocess.run([npm, "install", *options, *package_specs], check=True, timeout=300)


def _is_installed(package_spec: str, node_modules: Path) -> bool:
    name, _, version = package_spec.rpartition("@")
    try:
        manifest = json.loads((node_modules / name / "package.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return False
    return bool(manifest["version"] == version)
