"""Tests that the examples of docs/recordings.md work."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from workers_ai_emulator.middleware.recordings.player import _NEXT_STEP
from workers_ai_emulator.middleware.recordings.recording_file import parse_recording, recording_text

from tests.pages import blocks
from tests.server import INT8, server_process

FLAGS = [
    shlex.split(line, comments=True)[2:]
    for block in blocks("recordings.md", "bash")
    for line in block.splitlines()
]
TESTS = f"""
@pytest.mark.parametrize("word", ["yes", "no"])
def test_it_says(ai_url, word):
    url = f"{{ai_url}}/run/{INT8}"
    for _ in range(2):
        result = httpx.post(url, json={{"prompt": f"Say {{word}}."}}).json()["result"]
        assert word in result["response"]
"""


@pytest.mark.parametrize("flags", FLAGS, ids=lambda flags: " ".join(flags))
def test_a_server_starts_with_the_flags_on_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: list[str]
) -> None:
    (tmp_path / "cassettes").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WORKERS_AI_EMULATOR_RECORD_FROM", "scripted")
    with server_process(*flags) as server:
        assert server.base_url.endswith("/client/v4")


def test_the_fixture_on_the_page_gives_each_test_a_folder(tmp_path: Path) -> None:
    (fixture,) = blocks("recordings.md", "python")
    cassettes = tmp_path / "cassettes"
    for flags in (["record", "--record-from", "scripted"], ["replay"]):
        with server_process("--backend", *flags, "--cassettes", str(cassettes)) as server:
            program = fixture.replace("http://127.0.0.1:8790", server.root) + TESTS
            (tmp_path / "test_page.py").write_text(program, "utf-8")
            arguments = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
            done = subprocess.run(
                [*arguments, "test_page.py"],
                cwd=tmp_path,
                capture_output=True,
                text=True,
                timeout=120,
            )
            assert done.returncode == 0, done.stdout
    folders = {path.name: len(list(path.iterdir())) for path in cassettes.iterdir()}
    assert folders == {"test_it_says[yes]": 1, "test_it_says[no]": 1}


def test_the_file_on_the_page_is_a_recording_as_the_server_writes_it() -> None:
    (text,) = blocks("recordings.md", "json")
    assert recording_text(parse_recording(text)) == text


def test_the_error_on_the_page_is_that_of_a_missing_recording(tmp_path: Path) -> None:
    (text,) = blocks("recordings.md", "text")
    folder = str(tmp_path)
    with server_process(
        *["--backend", "scripted", "--record-from", "scripted", "--cassettes", folder]
    ) as server:
        for backend, max_tokens in (("record", 8), ("replay", 9)):
            body = {"prompt": "Say yes.", "max_tokens": max_tokens}
            headers = {"x-emulator-backend": backend}
            response = server.post(server.run_url(), body, headers)
    (error,) = response.json()["errors"]
    message = error["message"].replace(folder, "cassettes").rpartition(" (")[0]
    (name,) = (path.name for path in tmp_path.iterdir())
    shown = text.replace("cf-meta-llama-2-7b-chat-int8-778d65b05bdcb28d.json", name)
    assert message == shown.rstrip("\n")
    assert _NEXT_STEP in text and json.loads((tmp_path / name).read_text())["version"] == 2
