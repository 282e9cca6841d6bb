"""Tests the progress that `make` shows while llama.cpp is compiled."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from typing import Any

import pytest

from tests.pages import ROOT

PROGRAM = ROOT / "emulator" / "compile" / "progress.py"
LOG = """\
Collecting numpy>=1.26 (from workers-ai-emulator==0.1.0)
    [1/200] Building C object vendor/llama.cpp/ggml/src/CMakeFiles/ggml-base.dir/ggml.c.o
    [100/200] Building CXX object vendor/llama.cpp/src/CMakeFiles/llama.dir/llama.cpp.o
    [101/200] Building CXX object vendor/llama.cpp/src/CMakeFiles/llama.dir/llama-vocab.cpp.o
    [200/200] Linking CXX shared library bin/libllama.so
Successfully installed numpy-2.4.0
"""


def progress(*, is_terminal: bool) -> Any:
    spec = importlib.util.spec_from_file_location("compile_progress", PROGRAM)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Progress(is_terminal=is_terminal)


def texts(*, is_terminal: bool) -> list[str]:
    """Returns the texts for LOG, whose lines are ten seconds apart."""
    shown = progress(is_terminal=is_terminal)
    found = [shown.text(line, 10.0 * number) for number, line in enumerate(LOG.splitlines())]
    return [text for text in found if text is not None]


def test_a_terminal_gets_a_text_for_every_package_and_file() -> None:
    assert texts(is_terminal=True) == [
        "installing numpy",
        "compiling llama.cpp: 0 % (1 of 200 files)",
        "compiling llama.cpp: 50 % (100 of 200 files), about 10 s left",
        "compiling llama.cpp: 50 % (101 of 200 files), about 20 s left",
        "compiling llama.cpp: 100 % (200 of 200 files), about 0 s left",
    ]


def test_a_log_gets_a_line_for_every_tenth() -> None:
    assert texts(is_terminal=False) == [
        "compiling llama.cpp: 0 % (1 of 200 files)",
        "compiling llama.cpp: 50 % (100 of 200 files), about 10 s left",
        "compiling llama.cpp: 100 % (200 of 200 files), about 0 s left",
    ]


@pytest.mark.parametrize("line", ["", "[x/y] Building", "[1/", "\x1b[1/2]", "a [1/2] b"])
def test_other_lines_show_nothing(line: str) -> None:
    assert progress(is_terminal=True).text(line, 0.0) is None


def test_the_program_prints_errors_and_no_control_characters_into_a_log() -> None:
    done = subprocess.run(
        [sys.executable, PROGRAM],
        input=LOG.encode() + b"  ERROR: Failed building wheel for \xff\n",
        capture_output=True,
        timeout=60,
    )
    lines = done.stderr.decode().splitlines()
    assert done.returncode == 0
    assert len(lines) == 4
    assert lines[-1] == "  ERROR: Failed building wheel for \ufffd"
