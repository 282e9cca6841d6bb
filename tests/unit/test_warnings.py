"""Tests for which commands `exec` warns that their requests may reach Cloudflare."""

from __future__ import annotations

import pytest
from workers_ai_emulator.interception.warnings import warning_for


@pytest.mark.parametrize(
    "command",
    [
        "python -E program.py",
        "python3 -S program.py",
        "/usr/bin/python3.11 -I -c pass",
        "python -uE -m module",
        "python -W ignore -X dev -sS program.py",
        "java -jar program.jar",
        "sudo program",
        "docker run image",
    ],
)
def test_a_command_that_hides_the_variables_is_warned_in_one_line(command: str) -> None:
    warning = warning_for(command.split())
    assert warning and "call Cloudflare itself" in warning and "\n" not in warning


@pytest.mark.parametrize(
    "command",
    [
        "python program.py -E",
        "python -c pass -S",
        "python -m module -I",
        "python -u -W E program.py",
        "python -WE program.py",
        "python --version",
        "python -",
        "node -E",
        "pythonic -E",
    ],
)
def test_other_commands_are_not_warned(command: str) -> None:
    assert warning_for(command.split()) is None
