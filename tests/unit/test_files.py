"""Tests reading small text files, the errors of other files, and replacing a file as a whole."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from workers_ai_emulator.files import (
    TextUnreadable,
    new_part,
    one_line,
    read_small_text,
    write_text_atomically,
)


def test_a_small_text_is_read_as_utf8(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("é猫\n".encode())
    assert read_small_text(tmp_path / "a.txt") == "é猫\n"


def test_a_byte_order_mark_is_removed(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfa = 1\n")
    assert read_small_text(tmp_path / "a.txt") == "a = 1\n"


def test_ends_of_lines_become_newlines(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"a\r\nb\rc\n")
    assert read_small_text(tmp_path / "a.txt") == "a\nb\nc\n"


def test_a_text_of_the_greatest_length_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("é" * 5, "utf-8")
    assert read_small_text(tmp_path / "a.txt", max_bytes=10) == "é" * 5


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"x" * 11, "is longer than 10 bytes"),
        ("a".encode("utf-16"), "is not UTF-8 text: invalid start byte"),
        (b"caf\xe9", "is not UTF-8 text: unexpected end of data"),
    ],
)
def test_bytes_that_are_no_small_text_are_refused(tmp_path: Path, data: bytes, reason: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(data)
    with pytest.raises(TextUnreadable) as caught:
        read_small_text(path, max_bytes=10)
    assert str(caught.value) == f"{path}: {reason}"
    assert caught.value.reason == reason


def test_a_missing_file_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(TextUnreadable, match=r"a\.txt: cannot be read: No such file or directory$"):
        read_small_text(tmp_path / "a.txt")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows reports another reason")
def test_a_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TextUnreadable, match=r"is a directory, not a file$"):
        read_small_text(tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such files")
def test_a_pipe_and_a_device_are_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), Path("/dev/null")):
        with pytest.raises(TextUnreadable, match=r"is a device or a pipe, not a file$"):
            read_small_text(path)


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000, "\x1b[31mred\n"])
def test_a_path_that_cannot_exist_is_refused_in_one_printable_line(
    tmp_path: Path, name: str
) -> None:
    with pytest.raises(TextUnreadable) as caught:
        read_small_text(tmp_path / name)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("café 猫", "café 猫"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("two\nlines\r", r"two\nlines\r"),
        ("\u202ereversed", r"\u202ereversed"),
        ("\udce9", r"\udce9"),
        ("caf\udcc3\udca9", "café"),
        ("a\u00a0b\u3000c", "a\u00a0b\u3000c"),
    ],
)
def test_characters_that_change_a_terminal_are_escaped(text: str, line: str) -> None:
    assert one_line(text) == line


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


@pytest.mark.skipif(sys.platform == "win32", reason="Windows restricts links")
def test_a_new_part_replaces_a_link_and_is_deleted_at_the_end(tmp_path: Path) -> None:
    precious, part = tmp_path / "precious.txt", tmp_path / "a.part"
    precious.write_text("old")
    part.symlink_to(precious)
    with new_part(part) as path:
        path.write_text("new")
    assert precious.read_text() == "old"
    assert not part.is_symlink() and not part.exists()


def test_a_failed_write_leaves_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill_up(path: Path, *_: object, **__: object) -> None:
        raise OSError("no space")

    monkeypatch.setattr(Path, "write_text", fill_up)
    with pytest.raises(OSError, match="no space"):
        write_text_atomically(tmp_path / "a.txt", "new")
    assert list(tmp_path.iterdir()) == []
