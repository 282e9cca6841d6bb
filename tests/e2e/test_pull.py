"""Tests downloads of weights from a fake hub: each ends with the right file or an error line."""

from __future__ import annotations

import errno
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import pytest
from huggingface_hub import constants
from workers_ai_emulator.errors import PullFailed
from workers_ai_emulator.models.catalog import CATALOG, HubFile, ModelSpec
from workers_ai_emulator.models.download import Retries
from workers_ai_emulator.models.manifest import Manifest
from workers_ai_emulator.models.pull import pull
from workers_ai_emulator.models.store import Store

from tests.hub import COMMIT, PATH, REPO, TOKEN, FakeHub, Fault, fake_hub
from tests.server import wait_until

CONTENT = random.Random(1).randbytes(1_500_000)
SPEC = ModelSpec("@cf/someone/some-model", Path(PATH), HubFile(REPO, PATH, COMMIT))
HubOf = Callable[..., AbstractContextManager[FakeHub]]
RETRIES = Retries(number=3, first_delay_s=0.01)


@dataclass
class Log:
    """Records the progress that the command would show to the user."""

    lines: list[str] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)

    def begin(self, what: str, done: int, size: int) -> None:
        self.done, self.size = done, size

    def advance(self, num_bytes: int) -> None:
        self.done += num_bytes
        self.shares.append(self.done / self.size)

    def end(self) -> None: ...

    def note(self, line: str) -> None:
        self.lines.append(line)


@dataclass
class Puller:
    """Downloads weights into a folder, and checks the result."""

    folder: Path
    log: Log = field(default_factory=Log)

    @property
    def target(self) -> Path:
        return self.folder / PATH

    @property
    def parts(self) -> list[Path]:
        return list(self.folder.glob("*.part"))

    def pull(self, spec: ModelSpec = SPEC) -> bytes:
        path = pull(spec, Store(self.folder, num_threads=1), progress=self.log, retries=RETRIES)
        assert not self.parts
        return path.read_bytes()

    def fail(self, spec: ModelSpec = SPEC) -> str:
        with pytest.raises(PullFailed) as failure:
            self.pull(spec)
        assert "\n" not in str(failure.value)
        assert not self.target.exists()
        return str(failure.value)


@pytest.fixture
def puller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Puller:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    set_timeout(monkeypatch, 20)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    return Puller(tmp_path / "models")


@pytest.fixture
def hub_of(monkeypatch: pytest.MonkeyPatch) -> HubOf:
    @contextmanager
    def serve(content: bytes = CONTENT, **behaviour: object) -> Iterator[FakeHub]:
        with fake_hub(content, **behaviour) as hub:
            set_endpoint(monkeypatch, hub.url)
            yield hub

    return serve


def set_timeout(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Sets how long a request waits for data from the hub."""
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", seconds)
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", seconds)


def set_endpoint(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """Sets the hub's address. The variable `HF_ENDPOINT` has no effect after an import."""
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


def test_a_pulled_file_has_a_manifest_with_its_origin(puller: Puller, hub_of: HubOf) -> None:
    with hub_of() as hub:
        assert puller.pull() == CONTENT
        assert hub.ranges == [None]
    manifest = Manifest.read(puller.target)
    assert manifest and manifest.matches(puller.target)
    assert (manifest.sha256, manifest.size) == (hub.sha256, len(CONTENT))
    assert manifest.origin == f"{REPO}/{PATH}@{COMMIT}"


def test_a_second_pull_sends_no_request(puller: Puller, hub_of: HubOf) -> None:
    with hub_of() as hub:
        puller.pull()
        num_requests = len(hub.requests)
        assert puller.pull() == CONTENT
        assert len(hub.requests) == num_requests
    assert "exists already" in puller.log.lines[-1]


def test_a_pull_sends_no_usage_data(puller: Puller, hub_of: HubOf) -> None:
    with hub_of() as hub:
        puller.pull()
    assert {path.split("/resolve/")[0] for _, path, _ in hub.requests} == {f"/{REPO}"}


def test_a_redirect_to_another_origin_is_followed_without_the_token(
    puller: Puller, hub_of: HubOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with hub_of(needs_redirect=True, is_gated=True) as hub:
        assert puller.pull() == CONTENT
    by_path = {path: headers for method, path, headers in hub.requests if method == "GET"}
    assert len(by_path) == 2
    assert {path: "authorization" in headers for path, headers in by_path.items()} == {
        f"/{REPO}/resolve/{COMMIT}/{PATH}": True,
        "/blob": False,
    }


@pytest.mark.parametrize("needs_redirect", [False, True], ids=["direct", "redirected"])
@pytest.mark.parametrize("kind", ["cut", "reset", "stall"])
def test_bytes_received_before_an_interruption_are_kept_and_used(
    puller: Puller,
    hub_of: HubOf,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    needs_redirect: bool,
) -> None:
    if kind == "stall":
        set_timeout(monkeypatch, 1)
    faults = [Fault(kind, 400_000), Fault(kind, 300_000), Fault("503")]
    with hub_of(faults=faults, needs_redirect=needs_redirect) as hub:
        assert puller.pull() == CONTENT
        starts = [int(range.split("=")[1][:-1]) for range in hub.ranges if range]
    assert starts == sorted(starts)
    assert starts[0] > 300_000 and starts[-1] > 600_000 if kind != "reset" else starts
    assert len(CONTENT) <= hub.num_bytes_sent < 1.01 * len(CONTENT) + 2 * 2**18
    assert puller.log.shares == sorted(puller.log.shares)


def test_the_bytes_of_a_branch_are_requested_from_the_commit_of_the_checksum(
    puller: Puller, hub_of: HubOf
) -> None:
    with hub_of(faults=[Fault("cut", 400_000)]) as hub:
        assert puller.pull(replace(SPEC, hub_file=HubFile(REPO, PATH, "main"))) == CONTENT
        requested = [(method, path) for method, path, _ in hub.requests]
    of_commit = ("GET", f"/{REPO}/resolve/{COMMIT}/{PATH}")
    assert requested == [("HEAD", f"/{REPO}/resolve/main/{PATH}"), of_commit, of_commit]


def test_bytes_that_a_server_sends_again_are_skipped(puller: Puller, hub_of: HubOf) -> None:
    with hub_of(faults=[Fault("cut", 400_000), Fault("whole")]) as hub:
        assert puller.pull() == CONTENT
    assert [bool(r) for r in hub.ranges] == [False, True]
    assert puller.log.shares == sorted(puller.log.shares)


def test_a_file_with_a_wrong_byte_is_downloaded_again(puller: Puller, hub_of: HubOf) -> None:
    with hub_of(faults=[Fault("corrupt", 700_000)]) as hub:
        assert puller.pull() == CONTENT
    assert hub.ranges == [None, None]
    assert any("sha256" in line for line in puller.log.lines)


def test_a_byte_that_is_wrong_every_time_is_an_error(puller: Puller, hub_of: HubOf) -> None:
    with hub_of(faults=[Fault("corrupt", 700_000)] * 5):
        assert "another sha256" in puller.fail()
    assert not puller.parts


def test_more_bytes_than_announced_are_an_error(puller: Puller, hub_of: HubOf) -> None:
    with hub_of(faults=[Fault("longer")] * 5):
        assert "more bytes" in puller.fail()


def test_fewer_bytes_than_announced_are_an_error(puller: Puller, hub_of: HubOf) -> None:
    with hub_of(announced={"X-Linked-Size": str(len(CONTENT) + 1000)}):
        assert "fewer bytes of" in puller.fail()


def test_a_busy_hub_is_retried(puller: Puller, hub_of: HubOf) -> None:
    busy = [Fault("503"), Fault("429"), Fault("reset")]
    with hub_of(head_faults=busy, faults=[Fault("503"), Fault("500")]):
        assert puller.pull() == CONTENT
    assert sum("trying again" in line for line in puller.log.lines) == 5


def test_a_hub_that_stays_busy_is_an_error(puller: Puller, hub_of: HubOf) -> None:
    with hub_of(head_faults=[Fault("503")] * 9):
        assert re.search(r"responded with status 503, 4 times in a row: .*try again", puller.fail())


@pytest.mark.parametrize("status", ["400", "404", "451"])
def test_an_unexpected_status_is_an_error_without_retries(
    puller: Puller, hub_of: HubOf, status: str
) -> None:
    with hub_of(head_faults=[Fault(status)] * 2, faults=[Fault(status)]) as hub:
        for _ in range(2):
            assert f"responded with status {status}: " in puller.fail()
        assert f"responded with status {status}: " in puller.fail()
        assert len(hub.gets) == 1


def test_a_hub_that_refuses_connections_is_an_error(
    puller: Puller, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_endpoint(monkeypatch, "http://127.0.0.1:9")
    assert re.search(r"127.0.0.1:9: .*refused, 4 times in a row", puller.fail())


def test_a_hub_that_sends_no_data_is_an_error(
    puller: Puller, hub_of: HubOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_timeout(monkeypatch, 0.5)
    with hub_of(head_faults=[Fault("stall")] * 9):
        assert "sends no data" in puller.fail()


def test_a_gated_file_needs_a_token(
    puller: Puller, hub_of: HubOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hub_of(is_gated=True) as hub:
        message = puller.fail()
        assert f"accept its terms at {hub.url}/{REPO}" in message and "HF_TOKEN" in message
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        assert puller.pull() == CONTENT


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (HubFile("nobody/Nothing", PATH, COMMIT), "there is no repository nobody/Nothing"),
        (HubFile(REPO, "other.gguf", COMMIT), "has no file other.gguf"),
        (HubFile(REPO, PATH, "f" * 40), "has no revision ffff"),
        (HubFile("not a name", PATH, COMMIT), "is not a repository name"),
    ],
)
def test_a_missing_repository_file_or_revision_is_an_error(
    puller: Puller, hub_of: HubOf, file: HubFile, message: str
) -> None:
    with hub_of() as hub:
        assert message in puller.fail(replace(SPEC, hub_file=file))
        assert not hub.gets


@pytest.mark.parametrize(
    ("header", "what"),
    [("X-Repo-Commit", "commit"), ("X-Linked-Etag", "sha256")],
)
def test_a_hub_without_the_needed_headers_is_an_error(
    puller: Puller, hub_of: HubOf, header: str, what: str
) -> None:
    with hub_of(missing_headers=frozenset({header})) as hub:
        assert f"has no {what}" in puller.fail()
        assert not hub.gets


def test_a_disk_without_enough_space_is_an_error_before_the_first_byte(
    puller: Puller, hub_of: HubOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1_000_000))
    with hub_of() as hub:
        assert re.search(r"needs 1 MiB more and .* has 1 MiB free", puller.fail())
        assert not hub.gets


def test_a_disk_that_fills_up_is_an_error_and_the_received_bytes_are_used(
    puller: Puller, hub_of: HubOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = [600_000]

    def write(descriptor: int, data: memoryview) -> int:
        if not room[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        num_bytes = min(len(data), room[0])  # a disk stores what fits
        room[0] -= num_bytes
        return os_write(descriptor, data[:num_bytes])

    os_write = os.write
    with hub_of() as hub:
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", write)
            assert re.search(r"is full and 1 MiB of .* are missing", puller.fail())
        assert puller.pull() == CONTENT
        assert hub.ranges == [None, "bytes=600000-"]


def test_another_file_of_the_same_name_is_not_overwritten(puller: Puller, hub_of: HubOf) -> None:
    puller.folder.mkdir()
    puller.target.write_bytes(b"mine")
    with hub_of(), pytest.raises(PullFailed, match="is another file than"):
        puller.pull()
    assert puller.target.read_bytes() == b"mine"


def test_the_right_file_without_a_manifest_is_accepted(puller: Puller, hub_of: HubOf) -> None:
    puller.folder.mkdir()
    puller.target.write_bytes(CONTENT)
    with hub_of() as hub:
        assert puller.pull() == CONTENT
        assert not hub.gets
    assert Manifest.read(puller.target)


def test_a_file_that_has_changed_is_checked_again(puller: Puller, hub_of: HubOf) -> None:
    with hub_of():
        puller.pull()
        puller.target.write_bytes(CONTENT[:-1])
        with pytest.raises(PullFailed, match="or damaged"):
            puller.pull()


def cached(folder: Path, content: bytes, sha256: str) -> None:
    """Creates a file in the cache of huggingface-hub, in the same way as huggingface-hub."""
    home = folder.parent / "cache" / f"models--{REPO.replace('/', '--')}"
    blob, link = home / "blobs" / sha256, home / "snapshots" / COMMIT / PATH
    for path in (blob, link, home / "refs" / "main"):
        path.parent.mkdir(parents=True)
    blob.write_bytes(content)
    link.symlink_to(os.path.relpath(blob, link.parent))
    (home / "refs" / "main").write_text(COMMIT)


def test_a_cached_file_is_linked_without_a_request(puller: Puller, hub_of: HubOf) -> None:
    with hub_of() as hub:
        cached(puller.folder, CONTENT, hub.sha256)
        assert puller.pull() == CONTENT
        assert not hub.requests
    assert puller.target.stat().st_nlink == 2


def test_a_cached_branch_is_used_if_its_commit_is_the_same(puller: Puller, hub_of: HubOf) -> None:
    with hub_of() as hub:
        cached(puller.folder, CONTENT, hub.sha256)
        assert puller.pull(replace(SPEC, hub_file=HubFile(REPO, PATH, "main"))) == CONTENT
        assert [method for method, _, _ in hub.requests] == ["HEAD"]


def test_a_damaged_file_in_the_cache_is_not_used(puller: Puller, hub_of: HubOf) -> None:
    with hub_of() as hub:
        cached(puller.folder, CONTENT[:-1], hub.sha256)
        assert puller.pull() == CONTENT
        assert hub.gets
    assert any("damaged" in line for line in puller.log.lines)


def test_only_the_cache_is_used_offline(
    puller: Puller, hub_of: HubOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    branch = replace(SPEC, hub_file=HubFile(REPO, PATH, "main"))
    with hub_of() as hub:
        assert "HF_HUB_OFFLINE is set" in puller.fail()
        cached(puller.folder, CONTENT, hub.sha256)
        assert puller.pull(branch) == CONTENT
        assert not hub.requests


def test_two_concurrent_pulls_download_once(puller: Puller, hub_of: HubOf) -> None:
    second = Puller(puller.folder)
    with hub_of(pause_s=0.2) as hub, ThreadPoolExecutor() as pool:
        first_pull = pool.submit(puller.pull)
        wait_until(lambda: bool(hub.gets))
        second_pull = pool.submit(second.pull)
        wait_until(lambda: bool(second.log.lines))
        hub.pause_s = 0
        assert first_pull.result() == second_pull.result() == CONTENT
        assert len(hub.gets) == 1
    assert "waiting for it" in second.log.lines[0]


def test_a_model_without_a_repository_is_an_error(puller: Puller) -> None:
    assert "set its `repo` in models.toml" in puller.fail(replace(SPEC, hub_file=None))


@pytest.mark.parametrize(
    ("name", "url"),
    [
        (
            "@cf/meta/llama-2-7b-chat-int8",
            "https://huggingface.co/TheBloke/Llama-2-7B-Chat-GGUF/resolve/"
            "191239b3e26b2882fb562ffccdd1cf0f65402adb/llama-2-7b-chat.Q8_0.gguf",
        ),
        (
            "@cf/meta/llama-2-7b-chat-fp16",
            "https://huggingface.co/second-state/Llama-2-7B-Chat-GGUF/resolve/"
            "064fe43ea8c1e1f93477ef4a170bdc2b244ef02c/Llama-2-7b-chat-hf-f16.gguf",
        ),
    ],
)
def test_the_real_weights_have_these_addresses(
    name: str, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from workers_ai_emulator.models import hub

    set_endpoint(monkeypatch, "https://huggingface.co")
    file = CATALOG[name].hub_file
    assert file is not None and hub.url_of(file) == url


# ── the command ───────────────────────────────────────────────────────────────────────────────

MODELS_FILE = f"""
["@cf/someone/some-model"]
file = "{PATH}"
repo = "{REPO}"
revision = "{COMMIT}"
"""


def command(folder: Path, hub: FakeHub, *flags: str) -> subprocess.Popen[str]:
    folder.mkdir(exist_ok=True)
    (folder / "models.toml").write_text(MODELS_FILE)
    environment = {
        "PATH": os.environ["PATH"],
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(folder.parent / "hf"),
    }
    return subprocess.Popen(
        [sys.executable, "-m", "workers_ai_emulator", *flags, "--models-dir", str(folder)],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=partial(
            signal.signal, signal.SIGINT, signal.SIG_DFL
        ),  # needed if the test runner ignores SIGINT
    )


def has_sent(hub: FakeHub, num_bytes: int) -> bool:
    return hub.num_bytes_sent >= num_bytes


def test_a_command_killed_twenty_times_completes_the_file_without_many_repeated_bytes(
    tmp_path: Path,
) -> None:
    rng = random.Random(2)
    content = rng.randbytes(40_000_000)
    folder = tmp_path / "models"
    with fake_hub(content, pause_s=0.0005) as hub:
        for kill_at in sorted(rng.randrange(len(content) // 2) for _ in range(20)):
            # If the kill comes late, the hub stalls, so that the file is never complete before.
            rest = max(kill_at - hub.num_bytes_sent, 0)
            hub.faults[:] = [Fault("stall", rest + 4_000_000)]
            process = command(folder, hub, "pull", SPEC.name, "--quiet")
            wait_until(partial(has_sent, hub, kill_at))
            process.kill()
            process.communicate()
        hub.faults.clear()
        process = command(folder, hub, "pull", SPEC.name)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 0, said
        assert hub.num_bytes_sent < 1.01 * len(content) + 20 * 2**18
    assert (folder / REPO / PATH).read_bytes() == content
    assert "100%" in said and "\r" not in said
    assert not list(folder.rglob("*.part"))


def test_the_command_shows_the_terms_and_needs_agreement(tmp_path: Path) -> None:
    with fake_hub(CONTENT) as hub:
        process = command(tmp_path / "models", hub, "pull", "@cf/meta/llama-2-7b-chat-int8")
        said, complaint = process.communicate(timeout=30)
        assert process.returncode == 1 and not said
        assert "Llama 2 Community License: https://ai.meta.com/llama/license/" in complaint
        assert "add --accept-license" in complaint.splitlines()[-1]
        assert not hub.requests
        agreed = ("pull", "@cf/meta/llama-2-7b-chat-int8", "--accept-license", "--quiet")
        process = command(tmp_path / "models", hub, *agreed)
        _, complaint = process.communicate(timeout=30)
        assert complaint.startswith("workers-ai-emulator: there is no repository TheBloke/Llama")
        assert len(complaint.splitlines()) == 1


def test_an_unknown_model_is_a_one_line_error(tmp_path: Path) -> None:
    with fake_hub(CONTENT) as hub:
        process = command(tmp_path / "models", hub, "pull", "@cf/nobody/nothing")
        _, complaint = process.communicate(timeout=30)
    assert process.returncode == 1
    assert complaint == (
        "workers-ai-emulator: no model is called @cf/nobody/nothing: "
        "`workers-ai-emulator models list` shows the names\n"
    )


def test_an_unknown_host_fails_without_retries(
    puller: Puller, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    set_endpoint(monkeypatch, "http://hub.example")
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    complaint = puller.fail()
    assert complaint.startswith("the host of http://hub.example is unknown (")
    assert "HF_ENDPOINT" in complaint
    assert not any("trying again" in line for line in puller.log.lines)


def test_an_unknown_host_of_the_proxy_is_blamed_instead_of_the_hub(
    puller: Puller, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    for name in ("HTTP_PROXY", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", "http://me:secret@nosuch.example:1")
    set_endpoint(monkeypatch, "http://hub.example")
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    complaint = puller.fail()
    assert complaint.startswith(
        "the host of the proxy http://nosuch.example:1 (http_proxy) is unknown ("
    )
    assert "correct the variable or unset it" in complaint and "secret" not in complaint


def test_ctrl_c_keeps_the_received_bytes(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    with fake_hub(CONTENT, faults=[Fault("stall", 400_000)]) as hub:
        process = command(folder, hub, "pull", SPEC.name)
        wait_until(lambda: any(part.stat().st_size for part in folder.rglob("*.part")))
        process.send_signal(signal.SIGINT)
        _, complaint = process.communicate(timeout=30)
        assert process.returncode == 130
        assert complaint.splitlines()[-1] == "workers-ai-emulator: interrupted"
        process = command(folder, hub, "pull", SPEC.name)
        process.communicate(timeout=30)
        assert process.returncode == 0
        assert hub.ranges[1]
