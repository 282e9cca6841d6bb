"""Tests that a Worker calls tools and gets objects from today's models, in wrangler.

wrangler bundles the Worker's packages. The server has the backend `scripted`.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.server import ServerProcess, server_process
from tests.weather import OSLO, PARIS, QUESTIONS, REPORT, SCRIPT
from tests.workers.project import Project, ServedWorker
from tests.workers.tools import AGENTS, WRANGLER_4

pytestmark = [pytest.mark.documented, pytest.mark.node]

FILES = Path(__file__).with_name("agents")
LLAMA = "@cf/meta/llama-3.3-70b-instruct-fp8-fast"
HERMES = "@hf/nousresearch/hermes-2-pro-mistral-7b"
QWEN = "@cf/qwen/qwen3-30b-a3b-fp8"
GPT_OSS = "@cf/openai/gpt-oss-20b"
GEMMA = "@cf/google/gemma-4-26b-a4b-it"
MODELS = (LLAMA, QWEN, GPT_OSS, GEMMA)


@pytest.fixture(scope="module")
def server(no_network: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    script = tmp_path_factory.mktemp("script") / "script.json"
    script.write_text(json.dumps(SCRIPT), "utf-8")
    with server_process("--backend", "scripted", "--script", str(script)) as running:
        yield running


@pytest.fixture(scope="module")
def worker(
    server: ServerProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServedWorker]:
    folder = tmp_path_factory.mktemp("agents")
    shutil.copytree(FILES, folder, dirs_exist_ok=True)
    shutil.copy(QUESTIONS, folder)
    (folder / "node_modules").symlink_to(AGENTS.node_modules)
    project = Project(folder, server)
    file = project.emulator("worker", "init").strip()
    wrangler = str(WRANGLER_4.node_modules / ".bin" / "wrangler")
    with project.serve(wrangler, "dev", "-c", file) as running:
        yield running


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("case", ["loop", "stream"])
def test_the_ai_sdk_calls_tools_until_the_completion_is_a_text(
    worker: ServedWorker, case: str, model: str
) -> None:
    value = value_of(worker, case, model)
    if (case, model) == ("stream", LLAMA):
        # workers-ai-provider joins the pieces of both forms of the stream, as it does with streams
        # of the service (github.com/cloudflare/ai/pull/615).
        assert value["calls"][0][1].count("Paris") == 2
    else:
        assert value == {"calls": [PARIS, OSLO], "text": "Paris is warmer."}


@pytest.mark.parametrize("model", [LLAMA, HERMES])
def test_ai_utils_calls_tools_until_the_completion_is_a_text(
    worker: ServedWorker, model: str
) -> None:
    assert value_of(worker, "utils", model) == {"calls": [PARIS, OSLO], "text": "Paris is warmer."}


def test_ai_utils_streams_the_last_completion(worker: ServedWorker) -> None:
    value = value_of(worker, "utils_stream", LLAMA)
    *events, end = re.findall("^data: (.*)$", value["events"], flags=re.M)
    assert value["calls"] == [PARIS, OSLO]
    assert "".join(json.loads(event).get("response", "") for event in events) == "Paris is warmer."
    assert end == "[DONE]"


@pytest.mark.parametrize("model", MODELS)
def test_the_ai_sdk_returns_an_object(worker: ServedWorker, model: str) -> None:
    assert value_of(worker, "report", model) == REPORT


def value_of(worker: ServedWorker, case: str, model: str) -> Any:
    response = worker.get(f"/{case}/{model}")
    assert response.status == 200, f"{response}\n{worker.log}"
    return json.loads(response.text)
