"""A file is replaced as a whole, or stays as it was."""

from __future__ import annotations

from pathlib import Path

import pytest
from workers_ai_emulator.files import write_text_atomically


def test_a_text_is_written_as_utf8(tmp_path: Path) -> None:
    write_text_atomically(tmp_path / "new.txt", "é猫\n")
    assert (tmp_path / "new.txt").read_bytes() == "é猫\n".encode()
    assert [path.name for path in tmp_path.iterdir()] == ["new.txt"]


def test_an_existing_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "old.txt"
    path.write_text("a long text that must not remain")
    write_text_atomically(path, "short")
    assert path.read_text() == "short"


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path, target: Path) -> None:
        raise OSError("no space")

    path = tmp_path / "old.txt"
    path.write_text("old")
    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="no space"):
        write_text_atomically(path, "new")
    assert path.read_text() == "old"
