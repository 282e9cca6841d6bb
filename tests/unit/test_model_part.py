"""Tests the error for an installation without the extra `model` of our package."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from workers_ai_emulator.errors import _MODEL_PART, ModelPartMissing

from tests.pages import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
# Imports what `serve` needs with the backends `scripted` and `upstream`, and prints the imported
# modules.
IMPORT_SERVER = """
import sys
import workers_ai_emulator.backends.upstream
import workers_ai_emulator.server.server
print(*{name.partition(".")[0] for name in sys.modules})
"""


def names(requirements: Iterable[str]) -> set[str]:
    """Returns the normalized names of packages, without versions."""
    names = (re.split(r"[<>=\[; ]", requirement)[0] for requirement in requirements)
    return {name.lower().replace("_", "-") for name in names}


def test_the_listed_modules_are_those_of_the_packages_in_the_extra() -> None:
    extra = names(PROJECT["optional-dependencies"]["model"])
    packages = packages_distributions()
    assert names(name for module in _MODEL_PART for name in packages[module]) == extra


def test_no_package_is_both_required_and_in_the_extra() -> None:
    extra = names(PROJECT["optional-dependencies"]["model"])
    assert not names(PROJECT["dependencies"]) & extra


def test_the_server_imports_none_of_them_before_a_model_is_needed() -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_SERVER], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert not set(done.stdout.split()) & _MODEL_PART


def test_a_missing_module_of_the_extra_is_an_error_with_the_command() -> None:
    error = ModelPartMissing.of(ModuleNotFoundError("no", name="llama_cpp.llama_cpp"))
    assert "pip install 'workers-ai-emulator[model]'" in str(error)


@pytest.mark.parametrize("name", [None, "fastapi", "llama"])
def test_another_missing_module_is_raised(name: str | None) -> None:
    with pytest.raises(ModuleNotFoundError):
        ModelPartMissing.of(ModuleNotFoundError("no", name=name))


# Runs the command line as if the extra were not installed.
WITHOUT_EXTRA = f"""
import sys
sys.modules.update(dict.fromkeys({sorted(_MODEL_PART - {"pip"})!r}))
from workers_ai_emulator.cli import main
main()
"""


def serve_without_extra(*flags: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WITHOUT_EXTRA, "serve", "--port", "0", *flags]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL
    )


@pytest.mark.parametrize(
    "flags",
    [
        ["--backend", "llama"],
        ["--backend", "record"],
        ["--backend", "record", "--record-mode", "new_episodes"],
        ["--backend", "record", "--record-mode", "once"],
    ],
)
def test_a_server_that_needs_a_model_does_not_start_without_the_extra(
    flags: list[str], tmp_path: Path
) -> None:
    process = serve_without_extra(*flags, "--cassettes", str(tmp_path), "--log-level", "error")
    output, errors = process.communicate(timeout=60)
    expected = str(ModelPartMissing.of(ModuleNotFoundError("no", name="llama_cpp")))
    assert (output, errors) == ("", f"workers-ai-emulator: {expected}\n")
    assert process.returncode == 1


@pytest.mark.parametrize(
    "flags",
    [
        ["--backend", "record", "--record-from", "scripted"],
        ["--backend", "record", "--record-mode", "once"],
        ["--backend", "record", "--record-mode", "none"],
        ["--backend", "replay"],
    ],
)
def test_a_server_that_needs_no_model_starts_without_the_extra(
    flags: list[str], tmp_path: Path
) -> None:
    recordings = tmp_path / "of a test"
    recordings.mkdir()
    (recordings / "call.json").write_text("{}")
    process = serve_without_extra(*flags, "--cassettes", str(tmp_path))
    try:
        assert process.stdout and process.stdout.readline().startswith("http://")
    finally:
        process.terminate()
        process.communicate(timeout=60)
