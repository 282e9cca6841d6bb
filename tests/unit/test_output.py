"""Tests the output of commands: closed streams, full disks, and errors of the operating system."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from workers_ai_emulator.cli import app, main
from workers_ai_emulator.cli.help import Command, Group

RUN = f"{sys.executable} -m workers_ai_emulator"


def shell(line: str) -> subprocess.CompletedProcess[str]:
    """Runs a line of a shell, in which `run` is the emulator, with a time limit."""
    return subprocess.run(
        ["bash", "-c", f'run() {{ timeout 50 {RUN} "$@"; }}; {line}'],
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize(
    "command",
    [
        "models list",
        "worker config",
        "--version",
        "--help",
        "serve --help",
        "models",
        "worker init --help",
        "serve --port 0 --backend scripted",
    ],
)
def test_a_full_disk_is_an_error_of_one_line(command: str) -> None:
    done = shell(f"run {command} > /dev/full")
    assert done.returncode == 1
    assert done.stderr == ("workers-ai-emulator: cannot write to stdout: No space left on device\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_messages_that_cannot_be_written_change_no_exit_code() -> None:
    assert shell("run serve --sed 1 2> /dev/full").returncode == 2
    assert shell("run models show @cf/a/b 2> /dev/full").returncode == 1


def test_every_command_prints_its_help_as_its_other_output() -> None:
    command = typer.main.get_command(app)
    assert isinstance(command, Group)
    groups = [command, *(c for c in command.commands.values() if isinstance(c, Group))]
    commands = [command for group in groups for command in group.commands.values()]
    assert len(commands) > 10
    assert all(isinstance(command, Group | Command) for command in commands)


def test_a_server_whose_url_nobody_reads_stops_with_one_line() -> None:
    done = shell("run serve --port 0 --backend scripted | true; exit ${PIPESTATUS[0]}")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "the program that reads the base URL from stdout has exited" in line


def test_a_reader_that_stops_early_is_no_error() -> None:
    assert shell("run models list | head -1; run --help | head -1").stderr == ""


def test_a_closed_stdin_is_no_terminal(tmp_path: Path) -> None:
    done = shell(f"run pull @cf/meta/llama-3.2-1b-instruct --quiet --models-dir {tmp_path} <&-")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "--accept-license" in line


def test_messages_for_a_closed_stderr_are_discarded(tmp_path: Path) -> None:
    file = tmp_path / "a.gguf"
    file.write_bytes(b"GGUF")
    done = shell(f"run models import {file} --as @cf/a/b --models-dir {tmp_path} 2>&-")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")


@pytest.mark.parametrize(
    ("arguments", "path"),
    [
        (["models", "list"], "built-in"),
        (["models", "verify"], "built-in"),
        (["worker", "init", "locked/x"], "locked/x"),
    ],
)
def test_a_folder_without_access_is_an_error_of_one_line(
    arguments: list[str],
    path: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse(self: Path) -> bool:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    models_dir = ["--models-dir", str(tmp_path)] if arguments[0] == "models" else []
    monkeypatch.setattr(sys, "argv", ["workers-ai-emulator", *arguments, *models_dir])
    with monkeypatch.context() as patch:
        patch.setattr(Path, "exists", refuse)
        patch.setattr(Path, "is_dir", refuse)
        with pytest.raises(SystemExit) as exit:
            main()
    assert exit.value.code == 1
    assert capsys.readouterr().err == f"workers-ai-emulator: {path}: Permission denied\n"


def test_a_file_name_that_is_too_long_is_an_error_of_one_line() -> None:
    done = shell(f"run worker init {'x' * 300}")
    assert done.returncode == 1
    assert done.stderr == f"workers-ai-emulator: {'x' * 300}: File name too long\n"
