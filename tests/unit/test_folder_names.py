"""Tests which names the folder of an account's recordings cannot have."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from workers_ai_emulator.middleware.recordings.recordings import Recordings
from workers_ai_emulator.settings import Settings

from tests.unit.test_record_modes import ONE, Emulator


@pytest.mark.parametrize("name", ["taken", "taken/test_rain"])
def test_a_folder_cannot_have_the_name_of_a_file(tmp_path: Path, name: str) -> None:
    emulator = Emulator(tmp_path, "new_episodes")
    (tmp_path / "taken").write_text("a file")
    answer = emulator.control("POST", f"recordings?account={ONE}", {"folder": name})
    assert answer["http_status"] == 400
    message = answer["errors"][0]["message"]
    assert (
        message
        == f"folder: {tmp_path / 'taken'} is a file: choose another name, or remove the file"
    )
    assert emulator.control("GET", f"recordings?account={ONE}")["folder"] is None


def test_threads_that_name_the_same_folder_get_the_same_object(tmp_path: Path) -> None:
    settings = Settings(backend="record", record_from="scripted", cassettes=tmp_path)
    recordings = Recordings(settings)
    with ThreadPoolExecutor(8) as threads:
        folders = [*threads.map(recordings.folder_named, ["weather"] * 64)]
    assert {id(folder) for folder in folders} == {id(recordings.folder_named("weather"))}
