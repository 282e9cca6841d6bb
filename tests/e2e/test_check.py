"""Tests the command `check` with the stand-in model."""

from __future__ import annotations

import re
import subprocess
import sys

from tests.server import INT8

WITHOUT_THE_EXTRA = """
import sys
sys.modules.update(llama_cpp=None, tqdm=None)
sys.argv = ["workers-ai-emulator", "check"]
from workers_ai_emulator.cli import main
main()
"""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=300)


def test_the_report_describes_the_stand_in_model() -> None:
    done = run(
        *("-m", "workers_ai_emulator", "check", INT8),
        *("--context-length", "512", "--parallel", "4"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for line in (
        f"- name: {INT8}",
        "- weights: SmolLM2-135M-Instruct.Q8_0.gguf, Q8_0 (the stand-in model)",
        "- sequences at the same time (`--parallel`): 4, of 512 tokens",
        "| rows | 1 | 2 | 4 | 8 | 16 |",
    ):
        assert f"{line}\n" in done.stdout
    assert re.search(r"^- 1 client: [\d.]+ tokens/s, first token after \d+ ms", done.stdout, re.M)
    assert re.search(r"^- 4 clients: [\d.]+ tokens/s, first token", done.stdout, re.M)
    assert re.search(r"^Result: equal", done.stdout, re.M)
    assert done.stderr.splitlines()[0] == f"loading {INT8}"


def test_without_the_extra_the_error_names_the_command_to_install_it() -> None:
    done = run("-c", WITHOUT_THE_EXTRA)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert "pip install 'workers-ai-emulator[model]'" in line
