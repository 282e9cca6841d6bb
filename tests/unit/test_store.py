"""Tests the models folder: the weights of each model, manifests, and the list of verified files."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
from workers_ai_emulator.errors import WeightsUnusable
from workers_ai_emulator.models import store as store_module
from workers_ai_emulator.models.catalog import HubFile, ModelSpec
from workers_ai_emulator.models.manifest import Manifest
from workers_ai_emulator.models.store import Store, Weights

NAME = "@cf/someone/some-model"
SPEC = ModelSpec(NAME, Path("some.gguf"))
SHA256 = "0" * 64


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path, num_threads=1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "some.gguf"
    path.write_bytes(b"weights")
    return path


def make_unreadable(path: Path) -> None:
    """Makes the operating system refuse access to `path`, also for root: the name is too long."""
    path.symlink_to("x" * 300)


def touch(path: Path) -> None:
    """Changes the file's time of modification."""
    stat = path.stat()
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1_000_000))


def test_a_models_own_weights_are_untrusted(store: Store, path: Path) -> None:
    assert store.weights(SPEC) == Weights(path, is_trusted=False)


@pytest.mark.parametrize("is_python_3_14", [False, True])
def test_weights_without_access_are_an_error_with_the_next_step(
    store: Store, tmp_path: Path, is_python_3_14: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_unreadable(tmp_path / "some.gguf")
    if is_python_3_14:  # its `exists` ignores all errors of the operating system
        monkeypatch.setattr(Path, "exists", lambda path: os.path.exists(path))
    with pytest.raises(WeightsUnusable) as raised:
        store.weights(SPEC)
    assert str(raised.value) == (
        f"{tmp_path}/some.gguf cannot be read: File name too long; give yourself access to it, or "
        "choose another folder with --models-dir"
    )


def test_a_stand_in_without_access_is_an_error_with_the_next_step(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **options: object) -> Path:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "stand-in/a.gguf")

    monkeypatch.setattr(store_module, "stand_in", refuse)
    with pytest.raises(WeightsUnusable, match=r"^stand-in/a\.gguf cannot be read: Permission"):
        store.weights(ModelSpec(NAME, Path("some.gguf"), stand_in="Q8_0"))


@pytest.mark.parametrize("name", ["file/some.gguf", "missing/some.gguf", "a\0.gguf"])
def test_weights_whose_path_cannot_exist_are_missing(
    store: Store, tmp_path: Path, name: str
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WeightsUnusable, match="is missing"):
        store.weights(ModelSpec(NAME, Path(name)))


def test_an_absolute_path_is_outside_of_the_folder(store: Store, tmp_path: Path) -> None:
    assert store.path(ModelSpec(NAME, tmp_path / "other" / "x.gguf")).parent.name == "other"


def test_the_name_of_the_weights_is_that_of_the_file() -> None:
    assert Weights(Path("folder/llama-2-7b-chat.Q8_0.gguf")).name == "llama-2-7b-chat.Q8_0"
    assert Weights(Path("caf\udce9.gguf")).name == "caf\ufffd"


@pytest.mark.parametrize(
    ("hub_file", "next_step"),
    [(None, "put it there"), (HubFile("a/B", "some.gguf"), f"pull {NAME}")],
)
def test_missing_weights_are_an_error_with_the_next_step(
    store: Store, hub_file: HubFile | None, next_step: str
) -> None:
    with pytest.raises(WeightsUnusable, match=f"some.gguf is missing.*{next_step}"):
        store.weights(ModelSpec(NAME, Path("some.gguf"), hub_file))


def test_a_model_without_weights_gets_the_trusted_stand_in_model(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requested = []

    def stand_in(models_dir: Path, weights_type: str, *, num_threads: int) -> Path:
        requested.append((models_dir, weights_type, num_threads))
        return tmp_path / "stand-in.gguf"

    monkeypatch.setattr(store_module, "stand_in", stand_in)
    weights = store.weights(ModelSpec(NAME, Path("some.gguf"), stand_in="F16"))
    assert weights == Weights(tmp_path / "stand-in.gguf", is_trusted=True)
    assert requested == [(tmp_path, "F16", 1)]


# ── manifests ─────────────────────────────────────────────────────────────────────────────────


def test_a_manifest_is_read_as_it_was_written(path: Path) -> None:
    manifest = Manifest.of(path, origin="a/B/some.gguf@main", sha256=SHA256)
    manifest.write(path)
    assert Manifest.read(path) == manifest
    assert manifest.size == len(b"weights")
    assert json.loads(path.with_name("some.gguf.json").read_text())["sha256"] == SHA256


def test_a_manifest_matches_until_the_file_changes(path: Path) -> None:
    manifest = Manifest.of(path, origin="x", sha256=SHA256)
    assert manifest.matches(path)
    touch(path)
    assert not manifest.matches(path)
    path.unlink()
    assert not manifest.matches(path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"origin": "x"}', "null"])
def test_a_damaged_manifest_counts_as_missing(path: Path, text: str) -> None:
    path.with_name("some.gguf.json").write_text(text)
    assert Manifest.read(path) is None


def test_a_manifest_that_cannot_be_written_is_an_error(tmp_path: Path, path: Path) -> None:
    manifest = Manifest.of(path, origin="x", sha256=SHA256)
    with pytest.raises(WeightsUnusable, match=r"cannot write or remove .*No such file"):
        manifest.write(tmp_path / "missing" / "some.gguf")


# ── verified files ────────────────────────────────────────────────────────────────────────────


def test_a_file_is_verified_until_it_changes(store: Store, path: Path) -> None:
    assert not store.is_verified(path)
    store.mark_verified(path)
    assert store.is_verified(path)
    touch(path)
    assert not store.is_verified(path)


def test_a_file_is_verified_only_for_one_version_of_llama_cpp(
    store: Store, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.mark_verified(path)
    monkeypatch.setattr(store_module, "version", lambda _: "another")
    assert not store.is_verified(path)


def test_several_files_are_verified_at_once(store: Store, tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a.gguf", "b.gguf")]
    for path in paths:
        path.write_bytes(b"x")
        store.mark_verified(path)
    assert all(map(store.is_verified, paths))
    assert json.loads((tmp_path / ".verified.json").read_text()).keys() == {*map(str, paths)}


@pytest.mark.parametrize("text", ["", "[1, 2]", "{"])
def test_a_damaged_list_of_verified_files_counts_as_empty(
    store: Store, path: Path, tmp_path: Path, text: str
) -> None:
    (tmp_path / ".verified.json").write_text(text)
    assert not store.is_verified(path)
    store.mark_verified(path)
    assert store.is_verified(path)


def test_a_folder_that_cannot_be_written_leaves_a_file_unverified(
    path: Path, tmp_path: Path
) -> None:
    store = Store(tmp_path / "missing", num_threads=1)
    store.mark_verified(path)
    assert not store.is_verified(path)


# ── removal ───────────────────────────────────────────────────────────────────────────────────


def test_weights_are_removed_with_their_manifest_and_their_parts(
    store: Store, path: Path, tmp_path: Path
) -> None:
    others = [tmp_path / "some.gguf.json", tmp_path / f"some.gguf.{SHA256}.part"]
    kept = tmp_path / "something.gguf"
    for file in (*others, kept):
        file.touch()
    assert store.remove(SPEC) == [path, *others]
    assert list(tmp_path.iterdir()) == [kept]
    assert store.remove(SPEC) == []


def test_weights_outside_of_the_folder_are_not_removed(path: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "models", num_threads=1)
    assert store.remove(ModelSpec(NAME, path)) == []
    assert path.exists()


def test_a_loop_of_links_is_removed(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "some.gguf"
    path.symlink_to(path)
    assert store.remove(SPEC) == [path]
    assert list(tmp_path.iterdir()) == []
