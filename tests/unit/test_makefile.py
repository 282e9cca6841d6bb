"""Tests the Makefile: runs make with a fake pip, which only records its arguments."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pages import ROOT

NOTE_ARGUMENTS = '#!/bin/sh\necho "$@" >> pip.log\necho "$CMAKE_ARGS" >> cmake.log\n'
MAKE_NO_ENVIRONMENT = f'#!/bin/sh\n[ "$1" = -m ] || exec {shlex.quote(sys.executable)} "$@"\n'
PRINT_REQUIREMENT = "#!/bin/sh\necho stand-in\n"
CHANGES = {
    "dependency": ('"jinja2>=3.1.6"', '"jinja2>=3.1.7"'),
    "dependency for development": ('"ruff>=0.14"', '"ruff>=0.15"'),
    "entry point": ("workers_ai_emulator.pytest_plugin", "workers_ai_emulator.other_plugin"),
}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Returns a folder with our Makefile, after make has installed everything.

    The folder's name contains a space, an apostrophe and a letter that is not ASCII.
    """
    folder = tmp_path / "the user's ch\u00e8ckout"
    for name in ("Makefile", "pyproject.toml", "emulator/compile/progress.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    (folder / ".venv" / "bin").mkdir(parents=True)
    write_script(folder / ".venv" / "bin" / "pip", NOTE_ARGUMENTS)
    write_script(folder / ".venv" / "bin" / "python", PRINT_REQUIREMENT)
    write_script(folder / "python", MAKE_NO_ENVIRONMENT)
    assert installed(folder) == [
        "--editable .[model]",
        "--no-deps stand-in",
        "--editable .[dev]",
        "--no-deps stand-in",
    ]
    return folder


def write_script(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def make(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["make", *arguments], cwd=folder, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def installed(checkout: Path) -> list[str]:
    """Runs make, and returns the arguments of make's `pip install` commands."""
    (checkout / "pip.log").write_text("")
    for stamp in (checkout / ".venv").glob(".installed*"):
        os.utime(stamp, (1e9, stamp.stat().st_mtime - 60))  # older than files that a test writes
    make(checkout, "PYTHON=./python", ".venv/.installed-dev")
    lines = (checkout / "pip.log").read_text().splitlines()
    return [re.sub(r".* install (--\w+ )*?(?=--(editable|no-deps))", "", line) for line in lines]


def test_the_path_of_the_checkout_is_quoted_in_the_options_for_cmake(checkout: Path) -> None:
    options = shlex.split((checkout / "cmake.log").read_text("utf-8").splitlines()[0])
    file = checkout / "emulator" / "compile" / "lean.cmake"
    assert f"-DCMAKE_PROJECT_llama_cpp_INCLUDE={file}" in options


def test_the_variable_lc_all_does_not_reach_python(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LC_ALL", "C")
    write_script(checkout / ".venv" / "bin" / "python", '#!/bin/sh\necho "<$LC_ALL>"\n')
    assert "<>" in make(checkout, "PYTHON=./python", "test-unit").splitlines()


def test_nothing_is_installed_twice(checkout: Path) -> None:
    assert installed(checkout) == []


def test_an_unrelated_change_of_pyproject_installs_nothing(checkout: Path) -> None:
    file = checkout / "pyproject.toml"
    file.write_text(file.read_text("utf-8").replace("line-length = 100", "line-length = 99"))
    assert installed(checkout) == []


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_what_is_installed_installs_again(checkout: Path, change: str) -> None:
    file = checkout / "pyproject.toml"
    text = file.read_text("utf-8")
    assert CHANGES[change][0] in text
    file.write_text(text.replace(*CHANGES[change]))
    assert len(installed(checkout)) == 4
    assert installed(checkout) == []


def test_help_lists_every_command() -> None:
    [commands] = re.findall(r"^\.PHONY: (.+)", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    listed = re.findall(r"^make (\S+) +\S", make(ROOT, "help"), re.MULTILINE)
    assert listed == commands.split()


OLD_PYTHON = f"""#!/bin/sh
case "$2" in *version_info*) exec {shlex.quote(sys.executable)} -c \\
    'import sys; sys.version_info = (3, 10, 12); exec(sys.argv[1])' "$2" ;; esac
exit 1
"""


def test_an_older_python_is_an_error_with_the_next_step(tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    write_script(tmp_path / "python", OLD_PYTHON)
    done = subprocess.run(
        ["make", "PYTHON=./python"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    first, _ = done.stderr.splitlines()  # make itself adds a line
    assert first == "Python 3.11 or newer is needed: run make PYTHON=python3.11"
    assert not (tmp_path / ".venv").exists()
