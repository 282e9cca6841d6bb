"""Tests the command `worker`: the text it prints, the file it writes, and its errors."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from workers_ai_emulator.interception.worker_config import FILE_NAMES, LOCAL_FILE_NAME

JSON = '{"name": "w", "ai": {"binding": "AI"}}'
TOML = 'name = "w"\n[ai]\nbinding = "AI"\n'


def worker(
    folder: Path, *arguments: str, before: Callable[[], None] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "workers_ai_emulator", "worker", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=before,
    )


def assert_fails(done: subprocess.CompletedProcess[str], reason: str) -> None:
    """Asserts that the command failed with one line that contains the reason."""
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("workers-ai-emulator: ")
    assert reason in line


def test_all_blocks_are_printed_with_headings(tmp_path: Path) -> None:
    done = worker(tmp_path, "config", "--binding", "MODELS", "--address", "here:80")
    headings = [line for line in done.stdout.splitlines() if line.startswith("// ")]
    assert [heading.split()[1] for heading in headings] == [
        "wrangler.jsonc,",
        "Miniflare",
        "vitest.config.mjs",
        "vitest.config.mjs",
    ]
    assert done.stdout.count('"MODELS"') == done.stdout.count("here:80") == 4
    assert done.stderr == ""


@pytest.mark.parametrize(("tool", "num_blocks"), [("wrangler", 1), ("miniflare", 1), ("vitest", 2)])
def test_a_tool_can_be_chosen(tmp_path: Path, tool: str, num_blocks: int) -> None:
    done = worker(tmp_path, "config", tool)
    assert sum(line.startswith("// ") for line in done.stdout.splitlines()) == num_blocks
    assert "127.0.0.1:8790" in done.stdout


def test_a_local_file_is_written_beside_the_original(tmp_path: Path) -> None:
    source = tmp_path / "wrangler.toml"
    source.write_text(TOML)
    done = worker(tmp_path, "init")
    assert done.stdout == f"{LOCAL_FILE_NAME}\n"
    assert f"npx wrangler dev -c {LOCAL_FILE_NAME}" in done.stderr
    assert ".gitignore" in done.stderr
    assert "workers_ai_emulator" in (tmp_path / LOCAL_FILE_NAME).read_text()
    assert source.read_text() == TOML


@pytest.mark.parametrize("where", [".", "packages/api"])
def test_no_file_is_written_for_a_wrangler_that_is_too_old(tmp_path: Path, where: str) -> None:
    install_wrangler(tmp_path, "4.35.0")
    folder = tmp_path / where
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "wrangler.json").write_text(JSON)
    assert_fails(worker(tmp_path, "init", where), "has version 4.35.0: run `workers-ai-emulator ")
    assert not (folder / LOCAL_FILE_NAME).exists()


def test_the_needed_version_is_printed_if_no_wrangler_is_installed(tmp_path: Path) -> None:
    (tmp_path / "wrangler.json").write_text(JSON)
    hint = "needs wrangler 4.36 or newer"
    assert hint in worker(tmp_path, "init").stderr
    install_wrangler(tmp_path, "4.36.0")
    assert hint not in worker(tmp_path, "init").stderr


def install_wrangler(folder: Path, version: str) -> None:
    package = folder / "node_modules" / "wrangler"
    package.mkdir(parents=True)
    (package / "package.json").write_text(f'{{"version": "{version}"}}')


def test_the_local_file_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "wrangler.json").write_text(JSON)
    worker(tmp_path, "init")
    assert worker(tmp_path, "init", "--address", "elsewhere:80").returncode == 0
    assert "elsewhere:80" in (tmp_path / LOCAL_FILE_NAME).read_text()


@pytest.mark.parametrize("where", ["my worker", "my worker/wrangler.json"])
def test_the_argument_is_a_file_or_its_folder(tmp_path: Path, where: str) -> None:
    folder = tmp_path / "my worker"
    folder.mkdir()
    (folder / "wrangler.json").write_text(JSON)
    done = worker(tmp_path, "init", where)
    assert done.stdout == f"my worker/{LOCAL_FILE_NAME}\n"
    assert f"-c 'my worker/{LOCAL_FILE_NAME}'" in done.stderr


def test_of_several_files_the_one_that_wrangler_reads_is_converted(tmp_path: Path) -> None:
    for name in reversed(FILE_NAMES):
        (tmp_path / name).write_text(TOML if name.endswith("toml") else JSON)
        worker(tmp_path, "init")
        first_line, _, _ = (tmp_path / LOCAL_FILE_NAME).read_text().partition("\n")
        assert f"from {name}:" in first_line


def test_a_file_that_init_did_not_write_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "wrangler.json").write_text(JSON)
    (tmp_path / LOCAL_FILE_NAME).write_text("{}")
    assert_fails(worker(tmp_path, "init"), "was not written by this command")
    assert (tmp_path / LOCAL_FILE_NAME).read_text() == "{}"


def test_a_folder_without_a_configuration_is_an_error(tmp_path: Path) -> None:
    assert_fails(worker(tmp_path, "init"), f"no wrangler.json or {FILE_NAMES[1]}")
    assert_fails(worker(tmp_path, "init", "other.toml"), f"no other.toml in {tmp_path}")


def test_a_configuration_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "wrangler.json").write_bytes(b"\xff")
    assert_fails(worker(tmp_path, "init"), "cannot read wrangler.json")
    (tmp_path / "wrangler.json").write_text('{"ai": ')
    assert_fails(worker(tmp_path, "init"), "wrangler.json is not JSON: line 1 ")


def test_a_file_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "wrangler.json").write_text(JSON)
    # The limit of the file size makes the write fail also for root, who may write into any folder.
    done = worker(
        tmp_path, "init", before=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    )
    assert_fails(done, f"cannot write {LOCAL_FILE_NAME}: File too large; check ")
    assert not (tmp_path / LOCAL_FILE_NAME).exists()


def test_an_address_with_a_scheme_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "wrangler.json").write_text(JSON)
    assert_fails(worker(tmp_path, "init", "--address", "http://a:1"), "--address ")
    assert_fails(worker(tmp_path, "config", "--address", "http://a:1"), "--address ")
