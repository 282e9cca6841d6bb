"""Tests a server with several models, and the commands that manage model files."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from workers_ai_emulator.machine import in_units
from workers_ai_emulator.models import manifest as manifest_module
from workers_ai_emulator.models.catalog import CATALOG
from workers_ai_emulator.models.importing import verify_weights
from workers_ai_emulator.models.manifest import Manifest
from workers_ai_emulator.models.models_file import read_catalog
from workers_ai_emulator.models.store import Store

from tests.gguf_files import llama2_model, mamba_model
from tests.server import ACCOUNT_ID, ENDLESS, FP16, INT8, ServerProcess, server_process, wait_until

ONE, TWO, THREE = "@cf/someone/one", "@cf/someone/two", "@hf/someone/three"
MODELS_FILE = f"""
["{ONE}"]
file = "one.gguf"
context_length = 512

["{TWO}"]
file = "two.gguf"
description = "the second"
defaults = {{ max_tokens = 3, temperature = 0 }}

["{THREE}"]
file = "one.gguf"
"""
BODY = {"prompt": "Hi", "max_tokens": 4, "temperature": 0}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Returns a models folder with three models, two of which have the same file."""
    for seed, name in enumerate(("one.gguf", "two.gguf")):
        (tmp_path / name).write_bytes(llama2_model(seed=seed))
    (tmp_path / "models.toml").write_text(MODELS_FILE)
    return tmp_path


@pytest.fixture
def server(folder: Path) -> Iterator[ServerProcess]:
    with serving(folder) as running:
        yield running


def serving(folder: Path, *flags: str) -> AbstractContextManager[ServerProcess]:
    return server_process("--models-dir", str(folder), "--preload", ONE, "--parallel", "2", *flags)


def loaded(server: ServerProcess) -> set[str]:
    """Returns the names of the models that the server has loaded."""
    metrics = httpx.get(f"{server.root}/_emulator/metrics", timeout=60).text.splitlines()
    return {line.split('"')[1] for line in metrics if "emulator_slots{" in line}


def num_unfinished(server: ServerProcess, model: str) -> float:
    """Returns how many requests to the model are running or waiting for a slot."""
    return sum(
        server.metric(f"workers_ai_emulator_{state}", model=model)
        for state in ("running", "waiting")
    )


def get(server: ServerProcess, path: str) -> object:
    response = httpx.get(f"{server.base_url}/accounts/{ACCOUNT_ID}/ai/{path}")
    assert response.status_code == 200
    return response.json()["result"]


def test_three_models_on_two_files_generate(server: ServerProcess) -> None:
    answers = {name: server.run(BODY, model=name) for name in (ONE, TWO, THREE)}
    assert [answer.status_code for answer in answers.values()] == [200] * 3
    weights = {name: answer.headers["x-emulator-model"] for name, answer in answers.items()}
    assert weights == {ONE: "one", TWO: "two", THREE: "one"}
    assert answers[ONE].json() == answers[THREE].json() != answers[TWO].json()
    assert server.run(BODY, model="@cf/someone/four").json()["errors"][0]["code"] == 7000


def test_added_models_are_listed_with_their_schemas(server: ServerProcess) -> None:
    rows = get(server, "models/search?per_page=100")
    cards = {card["name"]: card for card in rows}  # type: ignore[attr-defined]
    assert {ONE, TWO, THREE, INT8} < cards.keys()
    assert cards[TWO]["description"] == "the second"
    assert cards[ONE]["properties"] == [{"property_id": "context_window", "value": "512"}]
    schema = get(server, f"models/schema?model={TWO}")
    assert schema["input"]["oneOf"][0]["properties"]["max_tokens"]["default"] == 3  # type: ignore[index]


def test_a_model_has_its_own_defaults_and_context_length(server: ServerProcess) -> None:
    answer = server.run({"prompt": "Hi"}, model=TWO).json()
    assert answer["result"]["usage"]["completion_tokens"] <= 3
    answer = server.run({"prompt": "Hi", "max_tokens": 510}, model=ONE)
    assert answer.json()["errors"][0]["code"] == 5021


def test_the_openai_routes_serve_added_models(server: ServerProcess) -> None:
    body = {"model": THREE, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
    answer = server.post(f"{server.base_url}/accounts/{ACCOUNT_ID}/ai/v1/chat/completions", body)
    assert (answer.status_code, answer.json()["model"]) == (200, THREE)


def test_only_requested_models_are_loaded_and_only_once(server: ServerProcess) -> None:
    assert loaded(server) == {ONE}
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: server.run(BODY, model=TWO), range(4)))
    assert {answer.status_code for answer in answers} == {200}
    assert loaded(server) == {ONE, TWO}
    server.wait_for_line(f"{TWO} runs on two")
    assert sum(f"{TWO} runs on two" in line for line in server.log) == 1


def test_the_least_recently_used_model_is_unloaded(folder: Path) -> None:
    with serving(folder, "--memory", "700MiB") as server:  # each model takes more than 256 MiB
        assert server.run(BODY, model=TWO).status_code == 200
        assert loaded(server) == {ONE, TWO}
        assert server.run(BODY, model=ONE).status_code == 200
        assert server.run(BODY, model=THREE).status_code == 200
        assert loaded(server) == {ONE, THREE}
        assert server.run(BODY, model=TWO).status_code == 200
        assert loaded(server) == {THREE, TWO}


def test_a_model_that_is_busy_is_not_unloaded(folder: Path) -> None:
    with serving(folder, "--memory", "400MiB") as server:
        body = {**ENDLESS, "max_tokens": 450, "temperature": 5, "seed": 1}
        with ExitStack() as connections:
            for _ in range(20):  # for the two slots: more work than loading TWO takes
                connections.enter_context(server.connect(body, model=ONE))
            wait_until(lambda: num_unfinished(server, ONE) > 2)
            refused = server.run(BODY, model=TWO)
            assert (refused.status_code, refused.json()["errors"][0]["code"]) == (429, 3040)
            assert num_unfinished(server, ONE) > 0
        wait_until(lambda: num_unfinished(server, ONE) == 0)
        assert server.run(BODY, model=TWO).status_code == 200
        assert loaded(server) == {TWO}


def test_a_model_that_never_fits_is_an_error_with_sizes(folder: Path) -> None:
    line = failing_start(folder, "--memory", "100MiB")
    assert "needs" in line and "100 MiB are free: raise --memory, or lower --parallel" in line
    with (folder / "models.toml").open("a") as file:
        file.write('["@cf/someone/long"]\nfile = "two.gguf"\ncontext_length = 4096\n')
    with serving(folder, "--memory", "300MiB", "--parallel", "60") as server:
        assert server.run(BODY, model="@cf/someone/long").status_code == 500
        assert loaded(server) == {ONE}  # ONE was not unloaded


def test_a_failed_load_is_an_error_and_the_next_request_loads_again(folder: Path) -> None:
    whole = (folder / "two.gguf").read_bytes()
    (folder / "two.gguf").write_bytes(whole[: len(whole) // 2])
    with serving(folder) as server:
        for _ in range(2):
            answer = server.run(BODY, model=TWO)
            assert (answer.status_code, answer.json()["errors"][0]["code"]) == (500, 3043)
            assert server.run(BODY, model=ONE).status_code == 200
        server.wait_for_line("two.gguf", "MiB of")
        (folder / "two.gguf").unlink()
        assert server.run(BODY, model=TWO).status_code == 500
        wait_until(lambda: any("two.gguf is missing" in line for line in list(server.log)))
        (folder / "two.gguf").write_bytes(whole)
        assert server.run(BODY, model=TWO).status_code == 200
        assert not any("Traceback" in line for line in server.log)


def test_a_request_can_time_out_during_a_load(folder: Path) -> None:
    with serving(folder, "--request-timeout", "0.15") as server:
        answer = server.run(BODY, model=TWO)  # a subprocess test-loads the file first
        assert (answer.status_code, answer.json()["errors"][0]["code"]) == (408, 3046)
        wait_until(lambda: loaded(server) == {ONE, TWO})
        # Requests may time out again while other processes take the CPU.
        wait_until(lambda: server.run(BODY, model=TWO).status_code == 200)


def test_a_client_can_disconnect_during_a_load(server: ServerProcess) -> None:
    with server.connect(BODY, model=TWO):
        server.wait_for_line("test-loading", "two.gguf")
    wait_until(lambda: loaded(server) == {ONE, TWO})
    events = (f"{TWO} 499", "loaded two after")
    for event in events:
        server.wait_for_line(event)
    log = "".join(server.log)
    assert log.index(events[0]) < log.index(events[1])
    assert server.run(BODY, model=TWO).status_code == 200


def test_a_file_may_have_any_name(folder: Path) -> None:
    (folder / "one.gguf").rename(folder / "模型 \n.gguf")
    (folder / "models.toml").write_text(f'["{ONE}"]\nfile = "模型 \\n.gguf"\n')
    with serving(folder) as server:
        answer = server.run(BODY, model=ONE)
    assert (answer.status_code, answer.headers["x-emulator-model"]) == (
        200,
        "%E6%A8%A1%E5%9E%8B%20%0A",
    )


def test_a_hostile_template_is_an_error_and_delays_no_other_request(folder: Path) -> None:
    (folder / "endless.jinja").write_text(
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    )
    with (folder / "models.toml").open("a") as file:
        file.write('["@cf/someone/hostile"]\nfile = "two.gguf"\nchat_template = "endless.jinja"\n')
    # The model is loaded before its request, so the request only renders the template, for 5 s.
    with (
        serving(folder, "--preload", "@cf/someone/hostile") as server,
        ThreadPoolExecutor() as pool,
    ):
        refused = pool.submit(server.run, BODY, model="@cf/someone/hostile")
        num_served = 0
        while not refused.done():
            assert httpx.get(f"{server.root}/_emulator/healthz", timeout=20).status_code == 200
            assert server.run(BODY, model=ONE).status_code == 200
            num_served += 1
        assert num_served > 3  # if the template delayed them: one before it and one after it
        assert refused.result().status_code == 400
        assert "did not end within 5 s" in refused.result().text


def failing_start(folder: Path, *flags: str) -> str:
    """Starts a server that cannot start. Returns its only line of output."""
    command = ["serve", "--port", "0", "--log-level", "error", "--preload", ONE, *flags]
    status, said, complaint = run(folder, *command)
    assert (status, said, len(complaint.splitlines())) == (1, "", 1), complaint
    return complaint


def test_an_unknown_name_to_preload_is_an_error(folder: Path) -> None:
    assert "no model is called @cf/a/b" in failing_start(folder, "--preload", "@cf/a/b")


def test_every_mistake_in_the_models_file_is_a_line(folder: Path) -> None:
    with (folder / "models.toml").open("a") as file:
        file.write('colour = "red"\n["@cf/someone/four"]\nsize = 1\n')
    status, _, complaint = run(folder, "serve", "--port", "0")
    assert status == 1
    assert [line.split(":")[2] for line in complaint.splitlines()] == ["13", "14", "15"]


# ── the commands ──────────────────────────────────────────────────────────────────────────────


def run(folder: Path, *arguments: str, **variables: str) -> tuple[int, str, str]:
    """Runs a command of the emulator. Returns its exit status, stdout and stderr."""
    done = subprocess.run(
        [sys.executable, "-m", "workers_ai_emulator", *arguments, "--models-dir", str(folder)],
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=60,
        env=os.environ | variables,
    )
    return done.returncode, done.stdout, done.stderr


def facts(folder: Path, name: str) -> dict[str, object]:
    status, said, _ = run(folder, "models", "show", name, "--json")
    assert status == 0
    found: dict[str, object] = json.loads(said)
    return found


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Returns the path of a GGUF file outside of the models folder."""
    path = tmp_path / "elsewhere" / "own.gguf"
    path.parent.mkdir()
    path.write_bytes(llama2_model(seed=5))
    return path


def test_a_file_is_imported_served_verified_and_removed(tmp_path: Path, own: Path) -> None:
    folder = tmp_path / "models"
    status, _, complaint = run(folder, "models", "import", str(own), "--as", ONE)
    assert status == 0, complaint
    digest = hashlib.sha256(own.read_bytes()).hexdigest()
    known = facts(folder, ONE)
    assert known["sha256"] == digest
    assert known["origin"] == f"imported from {own}"
    assert (known["size"], known["context"]) == (own.stat().st_size, 4096)
    with serving(folder) as server:
        assert server.run(BODY, model=ONE).headers["x-emulator-model"] == "own"
    status, said, _ = run(folder, "models", "verify")
    assert (status, digest in said) == (0, True)
    status, said, _ = run(folder, "models", "list")
    row = next(line for line in said.splitlines() if line.startswith(ONE))
    assert row.split() == [ONE, "own.gguf", "ready,", *in_units(own.stat().st_size).split()]
    assert run(folder, "models", "remove", ONE)[0] == 0
    assert own.exists()
    assert not (folder / "imported" / "own.gguf").exists()
    assert ONE not in run(folder, "models", "list")[1]


def test_the_list_shows_what_serves_each_name_in_100_columns(tmp_path: Path, own: Path) -> None:
    folder = tmp_path / "models"
    own = own.rename(own.with_name(f"{'long' * 10}.gguf"))
    assert run(folder, "models", "import", str(own), "--as", ONE)[0] == 0
    _, said, _ = run(folder, "models", "list")
    heading, *rows = said.splitlines()
    assert heading.split("  ")[0] == "NAME" and "SERVED BY" in heading
    assert max(map(len, rows)) <= 100
    served = {name: rest.split("  ") for name, _, rest in (row.partition(" ") for row in rows)}
    assert served.keys() == {*CATALOG, ONE}
    assert f"{'long' * 10}"[:31] + "…" in served[ONE]
    assert {"stand-in model (Q8_0)", "`pull` gets 4.6 GiB"} <= {
        part.strip() for part in served["@cf/meta/llama-3.1-8b-instruct"]
    }


def test_a_damaged_file_is_found_by_verify(tmp_path: Path, own: Path) -> None:
    folder = tmp_path / "models"
    run(folder, "models", "import", str(own), "--as", ONE)
    data = bytearray(own.read_bytes())
    data[-1] ^= 1
    (folder / "imported" / "own.gguf").unlink()
    (folder / "imported" / "own.gguf").write_bytes(data)
    status, _, complaint = run(folder, "models", "verify", ONE, "--quiet")
    assert status == 1
    assert "own.gguf is damaged: its sha256 is" in complaint
    assert len(complaint.splitlines()) == 1


def test_files_can_be_verified_without_write_access(
    tmp_path: Path, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "models"
    run(folder, "models", "import", str(own), "--as", ONE)
    manifest = folder / "imported" / "own.gguf.json"
    before = manifest.stat()
    assert run(folder, "models", "verify", ONE, "--quiet")[0] == 0
    after = manifest.stat()  # the manifest is written only if it must change
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    os.utime(own, (1e9, 1e9))
    monkeypatch.setattr(manifest_module, "write_text_atomically", refuse_to_write)
    lines: list[str] = []
    progress = SimpleNamespace(**dict.fromkeys(("begin", "advance", "end"), ignore))
    progress.note = lines.append
    result = verify_weights(read_catalog(folder)[ONE], Store(folder, num_threads=1), progress)
    assert "is unchanged" in result
    assert len(lines) == 1 and "Read-only file system" in lines[0]


def ignore(*_: object) -> None: ...


def refuse_to_write(*_: object) -> None:
    raise OSError(errno.EROFS, "Read-only file system")


def test_an_invalid_file_is_not_imported(tmp_path: Path, own: Path) -> None:
    own.write_bytes(own.read_bytes()[:-1000])
    for name, reason in ((ONE, "cannot be used"), ("llama", "@cf/author/model")):
        status, _, complaint = run(tmp_path, "models", "import", str(own), "--as", name)
        assert (status, reason in complaint) == (1, True), complaint
    assert not (tmp_path / "models.toml").exists()


def test_a_recurrent_model_is_refused_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "mamba.gguf"
    file.write_bytes(mamba_model())
    folder = tmp_path / "models"
    assert run(folder, "models", "import", str(file), "--as", ONE)[0] == 0
    for flag in ("--deterministic", "--no-deterministic"):
        status, _, complaint = run(folder, "serve", "--port", "0", "--preload", ONE, flag)
        assert status == 1
        assert complaint.endswith("recurrent models, such as Mamba, are not supported\n")
        assert "Traceback" not in complaint


def test_another_file_of_the_same_name_is_not_overwritten(folder: Path, own: Path) -> None:
    run(folder, "models", "import", str(folder / "one.gguf"), "--as", "@cf/a/a")
    own = own.rename(own.with_name("one.gguf"))
    status, _, complaint = run(folder, "models", "import", str(own), "--as", "@cf/a/b")
    assert (status, "rename one of the two" in complaint) == (1, True)


@pytest.mark.parametrize(
    ("file_name", "model"),
    [
        ("SmolLM2-135M-Instruct.Q8_0.gguf", INT8),
        ("SmolLM2-135M-Instruct.F16.gguf", FP16),
        ("llama-2-7b-chat.Q8_0.gguf", INT8),
        ("Llama-2-7b-chat-hf-f16.gguf", FP16),
    ],
)
def test_an_imported_file_is_not_used_for_another_model(
    tmp_path: Path, own: Path, file_name: str, model: str
) -> None:
    own = own.rename(own.with_name(file_name))
    folder = tmp_path / "models"
    assert run(folder, "models", "import", str(own), "--as", ONE)[0] == 0
    catalog = read_catalog(folder)
    store = Store(folder, num_threads=1)
    assert store.path(catalog[ONE]).samefile(own)
    assert store.weights(catalog[ONE]).is_trusted is False
    weights = store.weights(catalog[model])
    assert weights.is_trusted and not weights.path.samefile(own)


@pytest.mark.parametrize("name", [".verified.json", "own.gguf.json", "models.toml", "own.part"])
def test_a_reserved_file_name_is_not_imported(tmp_path: Path, own: Path, name: str) -> None:
    own = own.rename(own.with_name(name))
    status, _, complaint = run(tmp_path / "models", "models", "import", str(own), "--as", ONE)
    assert (status, "are reserved: rename" in complaint) == (1, True), complaint
    assert len(complaint.splitlines()) == 1


def test_a_file_imported_under_an_old_name_is_test_loaded_again(folder: Path, own: Path) -> None:
    store = Store(folder, num_threads=1)
    run(folder, "models", "import", str(own), "--as", ONE)
    imported = store.path(read_catalog(folder)[ONE])
    store.mark_verified(imported)
    run(folder, "models", "remove", ONE)
    run(folder, "models", "import", str(own), "--as", ONE)
    assert not store.is_verified(imported)


def test_a_file_that_another_model_uses_stays(folder: Path) -> None:
    assert f"one.gguf stays: {THREE} uses it" in run(folder, "models", "remove", ONE)[2]
    assert (folder / "one.gguf").exists()
    assert "deleted" in run(folder, "models", "remove", THREE)[2]
    assert not (folder / "one.gguf").exists()


def test_commands_without_any_weights_say_so(tmp_path: Path) -> None:
    empty = tmp_path / "models"
    status, said, complaint = run(empty, "models", "verify")
    assert (status, said, complaint) == (0, "", f"no weights to verify in {empty}\n")
    name = "@cf/meta/llama-3.1-8b-instruct"
    status, said, complaint = run(empty, "models", "remove", name)
    assert (status, said, complaint) == (0, "", f"{name} has no weights: nothing removed\n")


def test_a_file_outside_of_the_models_folder_is_not_removed(tmp_path: Path, own: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "models.toml").write_text(f'["{ONE}"]\nfile = "{own}"\n')
    assert f"{own} stays: it is outside of" in run(folder, "models", "remove", ONE)[2]
    assert own.exists()
    assert ONE not in (folder / "models.toml").read_text()


@pytest.mark.parametrize(
    ("variables", "shown"),
    [
        ({"LC_ALL": "C", "PYTHONUTF8": "0"}, r"caf\xe9.gguf"),
        ({"PYTHONIOENCODING": "ascii:strict"}, r"caf\xe9.gguf"),
        ({"PYTHONIOENCODING": "latin-1"}, "caf\ufffd.gguf"),
        ({"PYTHONIOENCODING": "utf-8"}, "café.gguf"),
    ],
)
def test_an_accented_file_name_can_be_used_with_any_locale(
    tmp_path: Path, own: Path, variables: dict[str, str], shown: str
) -> None:
    own = own.rename(own.with_name("café.gguf"))
    folder = tmp_path / "models"
    results = [
        run(folder, "models", *arguments, **variables)
        for arguments in (
            ("import", str(own), "--as", ONE),
            ("list",),
            ("show", ONE),
            ("verify", ONE),
            ("remove", ONE),
        )
    ]
    assert [status for status, _, _ in results] == [0] * 5, results
    assert not any("Traceback" in complaint for _, _, complaint in results)
    assert all(shown in said + complaint for _, said, complaint in results)


@pytest.mark.skipif(os.name == "nt", reason="Windows has other encodings")
def test_a_file_name_that_is_not_utf8_is_not_imported(tmp_path: Path, own: Path) -> None:
    name = own.rename(own.with_name(os.fsdecode(b"caf\xe9.gguf")))
    status, _, complaint = run(tmp_path / "models", "models", "import", str(name), "--as", ONE)
    assert (status, "not UTF-8: rename the file" in complaint) == (1, True), complaint
    assert not (tmp_path / "models").exists()


def test_control_characters_are_not_printed(folder: Path) -> None:
    Manifest.of(folder / "one.gguf", origin="\x1b]0;title\x07\n", sha256="\x1b").write(
        folder / "one.gguf"
    )
    for arguments in (["list", "--json"], ["show", ONE], ["show", "\x1b[2J"]):
        _, said, complaint = run(folder, "models", *arguments)
        assert r"\x1b" in said + complaint or r"\u001b" in said
        assert "\x1b" not in said + complaint


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such files")
def test_a_pipe_or_a_folder_instead_of_weights_is_reported_by_every_command(folder: Path) -> None:
    (folder / "one.gguf").unlink()
    os.mkfifo(folder / "one.gguf")
    (folder / "two.gguf").unlink()
    (folder / "two.gguf").mkdir()
    _, said, _ = run(folder, "models", "list")
    assert "it is a device or a pipe" in said and "it is a directory" in said
    status, _, complaint = run(folder, "models", "verify")
    assert (status, len(complaint.splitlines())) == (1, 2)  # one line for each file
    pipe = str(folder / "one.gguf")
    assert "it is a device or a pipe" in run(folder, "models", "import", pipe, "--as", "@cf/a/b")[2]
    assert "one.gguf cannot be loaded: it is a device or a pipe" in failing_start(folder)
