"""Tests downloads of a fake remote file in memory: interrupted, checked and complete ones."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from workers_ai_emulator.errors import PullFailed, TransferInterrupted
from workers_ai_emulator.models.download import (
    Download,
    Retrier,
    Retries,
    link_or_copy,
    locked,
    rename_durably,
    sha256_of,
)

CONTENT = bytes(range(256)) * 40
SHA256 = hashlib.sha256(CONTENT).hexdigest()
BLOCK = 1000
RETRIES = Retries(number=2, first_delay_s=0.0)


@dataclass
class Log:
    """Records the progress of a download. `last`: the number of complete bytes."""

    lines: list[str] = field(default_factory=list)
    begun: list[tuple[str, int, int]] = field(default_factory=list)
    last: int = 0
    num_ends: int = 0

    def begin(self, what: str, done: int, size: int) -> None:
        self.begun.append((what, done, size))
        self.last = done

    def advance(self, num_bytes: int) -> None:
        self.last += num_bytes

    def end(self) -> None:
        self.num_ends += 1

    def note(self, line: str) -> None:
        self.lines.append(line)


@dataclass
class Remote:
    """A fake remote file. `breaks`: after how many bytes each of the next responses breaks off."""

    content: bytes = CONTENT
    breaks: list[int] = field(default_factory=list)
    ignores_start: bool = False
    starts: list[int] = field(default_factory=list)

    @contextmanager
    def open(self, start: int) -> Iterator[tuple[int, Iterator[bytes]]]:
        self.starts.append(start)
        first = 0 if self.ignores_start else start
        yield first, self._blocks(self.content[first:])

    def _blocks(self, content: bytes) -> Iterator[bytes]:
        length = self.breaks.pop(0) if self.breaks else None
        for begin in range(0, len(content[:length]), BLOCK):
            yield content[:length][begin : begin + BLOCK]
        if length is not None:
            raise TransferInterrupted("the connection was lost")


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "model.gguf"


@pytest.fixture
def part(target: Path) -> Path:
    return target.with_name(f"model.gguf.{SHA256}.part")


def download(target: Path, remote: Remote, *, size: int = len(CONTENT)) -> Log:
    log = Log()
    Download(
        target,
        size=size,
        sha256=SHA256,
        open_remote=remote.open,
        progress=log,
        retries=RETRIES,
    ).run()
    return log


def test_a_file_is_downloaded_in_one_response(target: Path) -> None:
    remote = Remote()
    log = download(target, remote)
    assert target.read_bytes() == CONTENT
    assert [path.name for path in target.parent.iterdir()] == ["model.gguf"]
    assert (remote.starts, log.last, log.num_ends) == ([0], len(CONTENT), 1)


def test_an_interrupted_download_continues_where_it_stopped(target: Path) -> None:
    remote = Remote(breaks=[3000, 2500])
    log = download(target, remote)
    assert target.read_bytes() == CONTENT
    assert remote.starts == [0, 3000, 5500]
    assert [line.split(";")[0] for line in log.lines] == ["the connection was lost"] * 2


def test_a_short_response_counts_as_an_interruption(target: Path) -> None:
    remote = Remote(content=CONTENT[:3000])
    with pytest.raises(PullFailed, match="was interrupted, 3 times in a row"):
        download(target, remote)
    assert remote.starts == [0, 3000, 3000]


def test_received_bytes_are_kept_for_the_next_download(target: Path, part: Path) -> None:
    with pytest.raises(PullFailed, match="received bytes are kept"):
        download(target, Remote(breaks=[2000, 0, 0, 0]))
    assert part.read_bytes() == CONTENT[:2000]
    remote = Remote()
    log = download(target, remote)
    assert target.read_bytes() == CONTENT
    assert remote.starts == [2000]
    assert log.begun == [
        ("checking model.gguf", 0, 2000),
        ("model.gguf", 2000, len(CONTENT)),
    ]


def test_a_complete_part_needs_no_request(target: Path, part: Path) -> None:
    part.write_bytes(CONTENT)
    remote = Remote()
    download(target, remote)
    assert target.read_bytes() == CONTENT
    assert remote.starts == []


def test_a_part_that_is_too_long_is_dropped(target: Path, part: Path) -> None:
    part.write_bytes(CONTENT + b"more")
    remote = Remote()
    download(target, remote)
    assert target.read_bytes() == CONTENT
    assert remote.starts == [0]


def test_a_server_that_ignores_the_start_may_send_all_bytes_again(target: Path) -> None:
    remote = Remote(breaks=[2500], ignores_start=True)
    download(target, remote)
    assert target.read_bytes() == CONTENT
    assert remote.starts == [0, 2500]


def test_wrong_bytes_are_downloaded_again_once(target: Path, part: Path) -> None:
    part.write_bytes(b"wrong")
    remote = Remote()
    log = download(target, remote)
    assert target.read_bytes() == CONTENT
    assert remote.starts == [5, 0]
    assert log.lines == ["the sha256 differs from the hub's; downloading it again"]


def test_bytes_that_are_wrong_twice_are_an_error(target: Path) -> None:
    with pytest.raises(PullFailed, match="twice with another sha256"):
        download(target, Remote(content=bytes(len(CONTENT))))
    assert list(target.parent.iterdir()) == []


def test_more_bytes_than_announced_are_an_error(target: Path) -> None:
    with pytest.raises(PullFailed, match=r"more bytes of .* than the 100 that"):
        download(target, Remote(), size=100)


def test_a_disk_without_space_is_an_error_before_the_first_request(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage("/")._replace(free=2**20)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    remote = Remote()
    with pytest.raises(PullFailed, match="has 1 MiB free"):
        download(target, remote)
    assert remote.starts == []


# ── retries ───────────────────────────────────────────────────────────────────────────────────


def test_delays_double_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    delays: list[float] = []
    monkeypatch.setattr("time.sleep", delays.append)
    retrier = Retrier(Retries(number=7, first_delay_s=1.0), Log())
    with pytest.raises(PullFailed, match="8 times in a row"):
        retrier.run(_fail)
    assert delays == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]


def test_progress_resets_the_count_of_interruptions(monkeypatch: pytest.MonkeyPatch) -> None:
    delays: list[float] = []
    monkeypatch.setattr("time.sleep", delays.append)
    retrier = Retrier(Retries(number=1, first_delay_s=1.0), Log())
    attempts = iter(range(5))

    def attempt() -> str:
        if next(attempts) == 4:
            return "done"
        retrier.reset()
        raise TransferInterrupted("again")

    assert retrier.run(attempt) == "done"
    assert delays == [1.0] * 4


def _fail() -> None:
    raise TransferInterrupted("the connection was lost")


@pytest.mark.skipif(os.name == "nt", reason="Windows restricts links")
@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_a_link_in_the_place_of_the_part_is_not_written_through(
    tmp_path: Path, target: Path, part: Path, link: Callable[[Path, Path], None]
) -> None:
    precious = tmp_path / "precious.txt"
    precious.write_bytes(b"old")
    link(precious, part)
    download(target, Remote())
    assert (precious.read_bytes(), target.read_bytes()) == (b"old", CONTENT)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such files")
def test_a_pipe_in_the_place_of_the_part_is_replaced(target: Path, part: Path) -> None:
    os.mkfifo(part)
    download(target, Remote())
    assert target.read_bytes() == CONTENT


def test_a_folder_in_the_place_of_the_part_is_an_error(target: Path, part: Path) -> None:
    part.mkdir()
    with pytest.raises(PullFailed, match="cannot write"):
        download(target, Remote())


def test_parts_of_other_revisions_are_deleted(tmp_path: Path, target: Path) -> None:
    other, unrelated = (tmp_path / f"{name}.{'0' * 64}.part" for name in ("model.gguf", "x.gguf"))
    other.touch()
    unrelated.touch()
    download(target, Remote())
    assert not other.exists() and unrelated.exists()


# ── files ─────────────────────────────────────────────────────────────────────────────────────


def test_the_sha256_of_a_file_is_reported_as_progress(target: Path) -> None:
    target.write_bytes(CONTENT)
    log = Log()
    assert sha256_of(target, log) == SHA256
    assert log.begun == [("checking model.gguf", 0, len(CONTENT))]
    assert (log.last, log.num_ends) == (len(CONTENT), 1)


def test_a_link_shares_the_bytes_of_its_source(tmp_path: Path, target: Path) -> None:
    source = tmp_path / "source.gguf"
    source.write_bytes(CONTENT)
    link_or_copy(source, target)
    assert target.samefile(source)


def fail_to_link(*_: object) -> None:
    raise OSError("no links")


def test_a_file_system_without_links_gets_a_copy(
    tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source.gguf"
    source.write_bytes(CONTENT)
    monkeypatch.setattr("os.link", fail_to_link)
    link_or_copy(source, target)
    assert target.read_bytes() == CONTENT
    assert not target.samefile(source)


def test_a_copy_that_fails_is_an_error_and_leaves_no_part(
    tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill_up(source: Path, part: Path) -> None:
        part.write_bytes(b"beginning")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfile", fill_up)
    with pytest.raises(PullFailed, match="No space left"):
        link_or_copy(tmp_path / "missing.gguf", target)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="Windows restricts links")
def test_a_link_in_the_place_of_a_copys_part_is_not_written_through(
    tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    precious, source = tmp_path / "precious.txt", tmp_path / "source.gguf"
    precious.write_bytes(b"old")
    source.write_bytes(CONTENT)
    target.with_name("model.gguf.copy.part").symlink_to(precious)
    monkeypatch.setattr("os.link", fail_to_link)
    link_or_copy(source, target)
    assert (precious.read_bytes(), target.read_bytes()) == (b"old", CONTENT)


def test_a_file_that_cannot_be_read_has_no_sha256(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing.gguf"):
        with pytest.raises(PullFailed, match="cannot be read"):
            sha256_of(path, Log())


def test_a_renamed_file_replaces_the_target(tmp_path: Path, target: Path) -> None:
    part = tmp_path / "part"
    part.write_bytes(CONTENT)
    target.write_bytes(b"old")
    rename_durably(part, target)
    assert target.read_bytes() == CONTENT
    assert not part.exists()


def test_a_lock_creates_the_folder_and_can_be_taken_again(tmp_path: Path) -> None:
    target, log = tmp_path / "models" / "model.gguf", Log()
    for _ in range(2):
        with locked(target, log.note):
            assert target.parent.is_dir()
    assert log.lines == []


def test_a_folder_that_cannot_be_created_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("a file")
    with (
        pytest.raises(
            PullFailed,
            match=r"cannot write .*: .*; .*another folder with --models-dir$",
        ),
        locked(tmp_path / "models" / "model.gguf", Log().note),
    ):
        pass
