"""Tests the server and the command `models` with the built-in models, which have no weights."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.server import ACCOUNT_ID, FP16, INT8, ServerProcess, server_process

LLAMA_3_3 = "@cf/meta/llama-3.3-70b-instruct-fp8-fast"
QWEN_3 = "@cf/qwen/qwen3-30b-a3b-fp8"
BGE_M3 = "@cf/baai/bge-m3"
OTHER = "@cf/someone/some-model"
BODY = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3}
STAND_IN = "SmolLM2-135M-Instruct.Q8_0"


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    flags = ("--parallel", "2", "--context-length", "512")
    with server_process("--any-model", "--retired", *flags) as server:
        yield server


def test_the_stand_in_model_serves_many_names_with_one_engine(server: ServerProcess) -> None:
    for name in (LLAMA_3_3, QWEN_3, OTHER, LLAMA_3_3):
        response = server.run(BODY, name)
        assert response.status_code == 200
        assert response.headers["x-emulator-model"] == STAND_IN
    assert server.metric("workers_ai_emulator_slots") == 2
    for name in (LLAMA_3_3, QWEN_3):
        line = f"{name} has no weights of its own: it runs on {STAND_IN}"
        server.wait_for_line(line)
        assert sum(line in logged for logged in server.log) == 1


def test_a_name_that_is_no_model_name_is_refused(server: ServerProcess) -> None:
    assert server.run(BODY, "gpt-4").json()["errors"][0]["code"] == 7000


@pytest.mark.parametrize("name", [INT8, FP16])
def test_a_retired_model_is_refused(server: ServerProcess, name: str) -> None:
    response = server.run(BODY, name)
    assert (response.status_code, response.json()["errors"][0]["code"]) == (410, 5028)


def test_the_list_has_the_current_models(server: ServerProcess) -> None:
    url = f"{server.base_url}/accounts/{ACCOUNT_ID}/ai/models/search"
    names = [card["name"] for card in httpx.get(url).json()["result"]]
    assert len(names) == 43 and {LLAMA_3_3, QWEN_3, BGE_M3} < {*names} and INT8 not in names


def test_the_commands_show_where_the_weights_of_each_model_come_from(tmp_path: Path) -> None:
    done = command("models", "list", "--json", "--models-dir", str(tmp_path))
    origins = {model["name"]: model["origin"] for model in json.loads(done.stdout)}
    assert origins["@cf/meta/llama-3.2-1b-instruct"] == (
        "`pull` downloads it from bartowski/Llama-3.2-1B-Instruct-GGUF, about 770 MiB; "
        "until then the stand-in model as Q8_0"
    )
    assert "which `pull` does not download" in origins["@cf/meta/llama-4-scout-17b-16e-instruct"]
    assert origins["@cf/moonshotai/kimi-k2.6"].startswith("no repository; until then the stand-in")


def test_pull_shows_the_size_and_the_licence_and_asks_only_if_necessary(tmp_path: Path) -> None:
    done = command("pull", "@cf/openai/gpt-oss-20b", "--models-dir", str(tmp_path))
    *shown, error = done.stderr.splitlines()
    assert done.returncode == 1
    assert shown[:2] == [
        "@cf/openai/gpt-oss-20b: gpt-oss-20b-MXFP4.gguf of ggml-org/gpt-oss-20b-GGUF, "
        "about 11.3 GiB",
        "These weights come under the Apache License 2.0: "
        "https://www.apache.org/licenses/LICENSE-2.0",
    ]
    assert "HF_HUB_OFFLINE" in error
    done = command("pull", "@cf/google/gemma-3-12b-it", "--models-dir", str(tmp_path))
    assert "add --accept-license" in done.stderr.splitlines()[-1]


def test_weights_that_several_models_share_are_verified_once(tmp_path: Path) -> None:
    (tmp_path / "Meta-Llama-3.1-8B-Instruct-Q4_K_M.gguf").write_bytes(b"damaged")
    done = command("models", "verify", "--models-dir", str(tmp_path))
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "workers_ai_emulator", *arguments],
        capture_output=True,
        text=True,
        env={"HF_HUB_OFFLINE": "1", "PATH": ""},
        timeout=60,
    )
