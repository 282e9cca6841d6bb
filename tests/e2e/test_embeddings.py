"""Tests embeddings and rankings over HTTP, and the commands for the weights of such models."""

from __future__ import annotations

import base64
import json
import math
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from workers_ai_emulator.models.stand_in import embedding_stand_in
from workers_ai_emulator.settings import Settings

from tests.gguf_files import llama2_model
from tests.pages import blocks
from tests.server import ACCOUNT_ID, INT8, ServerProcess, server_process, wait_until

BGE_M3 = "@cf/baai/bge-m3"
BGE_SMALL = "@cf/baai/bge-small-en-v1.5"
RERANKER = "@cf/baai/bge-reranker-base"
LLAMA = "@cf/meta/llama-3.2-1b-instruct"
TEXTS = ["How do I reset my password?", "Set a new password.", "The bridge was built in 1932."]


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("recordings")
    flags = ("--cassettes", str(folder), "--record-from", "scripted")
    with server_process("--backend", "scripted", "--any-model", "--retired", *flags) as running:
        yield running


def account_url(server: ServerProcess, path: str) -> str:
    return f"{server.base_url}/accounts/{ACCOUNT_ID}/ai{path}"


def last_entry(server: ServerProcess) -> dict[str, Any]:
    """Returns the journal's entry of the last call."""
    rows = httpx.get(f"{server.root}/_emulator/requests?limit=1").json()["requests"]
    entry: dict[str, Any] = httpx.get(f"{server.root}/_emulator/requests/{rows[0]['id']}").json()
    return entry


def error_of(response: httpx.Response) -> tuple[int, int, str]:
    (error,) = response.json()["errors"]
    return response.status_code, error["code"], error["message"]


# ── calls ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["server", "scripted"])
def test_texts_with_a_similar_meaning_have_similar_embeddings(
    name: str, request: pytest.FixtureRequest
) -> None:
    server: ServerProcess = request.getfixturevalue(name)
    result = server.run({"text": TEXTS}, BGE_M3).json()["result"]
    assert result["shape"] == [3, 1024]
    one, near, far = result["data"]
    assert math.hypot(*one) == pytest.approx(1)
    assert sum(map(float.__mul__, one, near)) > sum(map(float.__mul__, one, far)) + 0.1


@pytest.mark.parametrize("name", ["server", "scripted"])
def test_the_forms_of_workers_ai_and_openai_contain_the_same_numbers(
    name: str, request: pytest.FixtureRequest
) -> None:
    server: ServerProcess = request.getfixturevalue(name)
    (expected,) = server.run({"text": TEXTS[0]}, BGE_M3).json()["result"]["data"]
    body: dict[str, Any] = {"model": BGE_M3, "input": TEXTS[0]}
    gateway_url = f"{server.root}/v1/{ACCOUNT_ID}/default/workers-ai/v1/embeddings"
    for url in (gateway_url, account_url(server, "/v1/embeddings")):
        (item,) = server.post(url, body).json()["data"]
        assert item["embedding"] == expected
    options = {"encoding_format": "base64", "dimensions": 5, "user": None}
    (item,) = server.post(url, body | options).json()["data"]
    numbers = struct.unpack("<1024f", base64.b64decode(item["embedding"]))
    assert numbers == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("name", ["server", "scripted"])
@pytest.mark.parametrize("model", [BGE_M3, RERANKER])
def test_the_better_context_comes_first(
    name: str, model: str, request: pytest.FixtureRequest
) -> None:
    server: ServerProcess = request.getfixturevalue(name)
    contexts = [{"text": text} for text in reversed(TEXTS[1:])]
    rows = server.run({"query": TEXTS[0], "contexts": contexts}, model).json()["result"]["response"]
    assert [row["id"] for row in rows] == [1, 0]
    assert 0 <= rows[1]["score"] < rows[0]["score"] <= 1


@pytest.mark.parametrize("name", ["server", "scripted"])
@pytest.mark.parametrize("text", ["\ud83d", "a\udfffb", "\x00", "", "日本語 é 😀", "a" * 200_000])
def test_unusual_texts_have_an_embedding(
    name: str, text: str, request: pytest.FixtureRequest
) -> None:
    server: ServerProcess = request.getfixturevalue(name)
    content = json.dumps({"text": [text]}).encode()  # httpx cannot encode lone surrogates
    response = httpx.post(server.run_url(BGE_SMALL), content=content, timeout=60)
    assert response.json()["result"]["shape"] == [1, 384]
    assert last_entry(server)["outcome"] == "ok"


@pytest.mark.parametrize("num_texts", [0, 150])
def test_a_request_may_have_no_text_or_more_than_a_hundred(
    scripted: ServerProcess, num_texts: int
) -> None:
    result = scripted.run({"text": ["a"] * num_texts}, BGE_SMALL).json()["result"]
    assert result["shape"] == [num_texts, 384] and len(result["data"]) == num_texts


def test_a_request_with_too_many_texts_is_refused(scripted: ServerProcess) -> None:
    response = scripted.run({"text": [str(number) for number in range(200_000)]}, BGE_M3)
    assert error_of(response)[:2] == (413, 3006)


@pytest.mark.parametrize("truncates", [False, True])
def test_all_tokens_of_a_very_long_text_are_counted(server: ServerProcess, truncates: bool) -> None:
    body = {"text": "word " * 200_000, "truncate_inputs": truncates}
    status, code, message = error_of(server.run(body, BGE_M3))
    assert (status, code) == (400, 3030)
    assert "Max context reached 200002 tokens but model supports only 60000" in message


def test_a_text_in_another_request_has_the_same_embedding(server: ServerProcess) -> None:
    first, _, _ = server.run({"text": TEXTS}, BGE_M3).json()["result"]["data"]
    assert server.run({"text": TEXTS[0]}, BGE_M3).json()["result"]["data"] == [first]


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({}, "required properties at '/' are 'text'"),
        ({"input": None}, "Type mismatch of '/text', 'string' not in 'null'"),
        ({"input": [1, 2]}, "Type mismatch of '/text/0', 'string' not in 'number','integer'"),
        ({"input": [[1, 2]]}, "Type mismatch of '/text/0', 'string' not in 'array'"),
        ({"input": "a", "encoding_format": "int8"}, "must be 'float' or 'base64'"),
        ({"input": "a", "encoding_format": []}, "must be 'float' or 'base64'"),
        ({"model": LLAMA, "input": "a"}, "required properties at '/' are 'prompt'"),
        ({"model": RERANKER, "input": "a"}, "required properties at '/' are 'query,contexts'"),
        ({"model": "@cf/any/model", "input": "a"}, "required properties at '/' are 'prompt'"),
    ],
    ids=str,
)
def test_an_invalid_request_in_the_form_of_openai_gets_one_error(
    scripted: ServerProcess, body: dict[str, Any], text: str
) -> None:
    url = account_url(scripted, "/v1/embeddings")
    status, code, message = error_of(scripted.post(url, {"model": BGE_M3, **body}))
    assert (status, code) == (400, 5006) and text in message


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", f"/run/{BGE_M3}"])
def test_an_embedding_model_generates_no_text(scripted: ServerProcess, path: str) -> None:
    body = {"model": BGE_M3, "messages": [{"role": "user", "content": "Hi"}], "stream": True}
    status, code, message = error_of(scripted.post(account_url(scripted, path), body))
    assert (status, code) == (400, 5006) and "required properties at '/' are 'text'" in message


# ── journal, neurons, faults and recordings ───────────────────────────────────────────────────


def test_the_journal_the_log_and_the_neurons_contain_the_call(scripted: ServerProcess) -> None:
    def spent() -> float:
        body = httpx.get(f"{scripted.root}/_emulator/neurons").json()
        return float(body["spent"].get(ACCOUNT_ID, 0))

    before = spent()
    result = scripted.run({"text": ["one two", "three"]}, BGE_M3).json()["result"]
    entry = last_entry(scripted)
    assert entry["outcome"] == "ok" and entry["answered_by"] == "scripted"
    assert (entry["model"], entry["prompt"]["text"]) == (BGE_M3, "one two\n\nthree")
    assert entry["prompt_tokens"] == result["meta"]["cost_metric_value_1"] == 3
    assert entry["completion_tokens"] == 0 and entry["unmatched"] is False
    assert spent() - before == pytest.approx(result["meta"]["neurons"])
    scripted.wait_for_line(BGE_M3, " 200")


@pytest.mark.parametrize("path", [f"/run/{BGE_M3}", "/v1/embeddings"])
def test_a_fault_replaces_embeddings(scripted: ServerProcess, path: str) -> None:
    url, body = account_url(scripted, path), {"model": BGE_M3, "text": "a", "input": "a"}
    response = scripted.post(url, body, {"x-emulator-fault": "capacity"})
    assert error_of(response)[:2] == (429, 3040)
    rule = {"fault": "capacity", "times": 1}
    httpx.post(f"{scripted.root}/_emulator/faults", json=rule).raise_for_status()
    assert [scripted.post(url, body).status_code for _ in range(2)] == [429, 200]


def test_recorded_embeddings_are_sent_again(scripted: ServerProcess) -> None:
    def send(backend: str, text: str) -> httpx.Response:
        url, body = scripted.run_url(BGE_M3), {"text": [text]}
        return scripted.post(url, body, {"x-emulator-backend": backend})

    recorded = send("record", "to record")
    assert recorded.status_code == 200
    assert send("replay", "to record").json() == recorded.json()
    assert send("replay", "never recorded").status_code >= 400


def test_the_lists_contain_embedding_models_and_their_tasks(scripted: ServerProcess) -> None:
    def get(path: str) -> Any:
        return httpx.get(account_url(scripted, path)).json()["result"]

    cards = get("/models/search?task=Text Embeddings")
    assert len(cards) == 7 and all(card["task"]["name"] == "Text Embeddings" for card in cards)
    assert [card["name"] for card in get("/models/search?task=text classification")] == [RERANKER]
    names = [task["name"] for task in get("/tasks/search")]
    assert names == ["Text Generation", "Text Embeddings", "Text Classification"]
    schema = get(f"/models/schema?model={RERANKER}")
    assert schema["input"]["required"] == ["query", "contexts"]


# ── weights ───────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def mini_lm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a user's file with an embedding model: a link to the stand-in model."""
    file = tmp_path_factory.mktemp("files") / "mini-lm.gguf"
    file.symlink_to(embedding_stand_in(Settings().models_dir))
    return file


def models(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    flags = ("--models-dir", str(folder))
    command = [sys.executable, "-m", "workers_ai_emulator", "models", *arguments, *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_an_imported_embedding_model_computes_embeddings(tmp_path: Path, mini_lm: Path) -> None:
    done = models(tmp_path, "import", str(mini_lm), "--as", BGE_SMALL)
    assert done.returncode == 0, done.stderr
    details = json.loads(models(tmp_path, "show", BGE_SMALL, "--json").stdout)
    assert (details["type"], details["context"]) == ("F16", 512)
    done = models(tmp_path, "verify", BGE_SMALL)
    assert "is unchanged" in done.stdout
    with server_process("--models-dir", str(tmp_path), "--preload", BGE_SMALL) as server:
        wait_until(lambda: httpx.get(f"{server.root}/_emulator/readyz").is_success)
        server.wait_for_line("mini-lm")
        assert server.metric("workers_ai_emulator_slots") == 0  # no text model is loaded
        response = server.run({"text": TEXTS[0]}, BGE_SMALL)
        assert response.headers["x-emulator-model"] == "mini-lm"
        assert response.json()["result"]["shape"] == [1, 384]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (LLAMA, "it computes embeddings, and @cf/meta/"),
        ("@cf/someone/new", "or add it to models.toml with `like`"),
        (RERANKER, "it computes embeddings, and @cf/baai/bge-reranker-base ranks texts"),
    ],
)
def test_an_embedding_model_cannot_be_imported_as_another_model(
    tmp_path: Path, mini_lm: Path, name: str, reason: str
) -> None:
    done = models(tmp_path, "import", str(mini_lm), "--as", name)
    assert done.returncode == 1 and reason in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "models.toml").exists()


def test_a_text_model_cannot_be_imported_as_an_embedding_model(tmp_path: Path) -> None:
    file = tmp_path / "text.gguf"
    file.write_bytes(llama2_model())
    done = models(tmp_path, "import", str(file), "--as", BGE_M3)
    assert done.returncode == 1 and "it generates text, and @cf/baai/bge-m3 does not" in done.stderr


def test_a_text_model_in_models_toml_is_refused_when_it_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "text.gguf").write_bytes(llama2_model())
    (tmp_path / "models.toml").write_text(f'["{BGE_M3}"]\nfile = "text.gguf"\n')
    with server_process("--models-dir", str(tmp_path), "--preload", INT8) as server:
        assert error_of(server.run({"text": "a"}, BGE_M3))[:2] == (500, 3043)
        server.wait_for_line("it generates text, and @cf/baai/bge-m3 does not")


# ── docs/embeddings.md ────────────────────────────────────────────────────────────────────────


def test_the_commands_of_the_page_work(server: ServerProcess) -> None:
    native, openai, ranking = (json.loads(output_of(c, server)) for c in blocks(PAGE, "bash"))
    assert native["result"]["shape"] == [2, 1024]
    assert [*json.loads(blocks(PAGE, "json")[0].replace("…", ""))["result"]] == [*native["result"]]
    assert [item["index"] for item in openai["data"]] == [0, 1]
    assert [row["id"] for row in ranking["result"]["response"]] == [1]


def test_the_program_of_the_page_finds_the_text(server: ServerProcess) -> None:
    (program,) = blocks(PAGE, "python")
    program = program.replace("http://127.0.0.1:8790", server.root)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "You can return a parcel within 30 days.\n", done.stderr


PAGE = "embeddings.md"


def output_of(command: str, server: ServerProcess) -> str:
    command = command.replace("http://127.0.0.1:8790", server.root).replace("curl ", "curl -s ", 1)
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120)
    return done.stdout
