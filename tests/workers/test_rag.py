"""Tests a Worker that answers questions about its own texts, in wrangler and without a network.

wrangler bundles the Worker's packages: Hono, the AI SDK with workers-ai-provider, and LangChain.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from workers_ai_emulator.models.stand_in import embedding_stand_in
from workers_ai_emulator.settings.settings import default_models_dir

from tests.clients.client import PROGRAMS
from tests.server import ServerProcess, server_process
from tests.workers.project import URL, Project, ServedWorker
from tests.workers.tools import RAG, WRANGLER_4

# The server's backend, and how wrangler's requests reach the server.
SETUPS = [("llama", "init"), ("llama", "exec"), ("scripted", "exec")]
pytestmark = [
    pytest.mark.documented,
    pytest.mark.node,
    pytest.mark.parametrize(("server", "worker"), SETUPS, indirect=True, scope="module"),
]

FILES = Path(__file__).with_name("rag")
TEXTS = json.loads((PROGRAMS / "passages.json").read_text("utf-8"))
PASSAGES: list[str] = TEXTS["passages"]
QUESTIONS: list[tuple[str, str]] = [
    (each["question"], each["passage"]) for each in TEXTS["questions"]
]


@pytest.fixture(scope="session")
def stand_in_file() -> Path:
    """Converts the stand-in model for embeddings, for which a network may be necessary."""
    return embedding_stand_in(default_models_dir())


@pytest.fixture(scope="module")
def server(
    stand_in_file: Path, no_network: None, request: pytest.FixtureRequest
) -> Iterator[ServerProcess]:
    flags = ("--backend", request.param, "--context-length", "2048", "--seed", "1")
    with server_process(*flags) as running:
        yield running


@pytest.fixture(scope="module")
def worker(
    server: ServerProcess, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[ServedWorker]:
    """Runs the Worker with the file of `worker init` or under `exec`. It indexes the texts."""
    folder = tmp_path_factory.mktemp("rag")
    shutil.copytree(FILES, folder, dirs_exist_ok=True)
    (folder / "node_modules").symlink_to(RAG.node_modules)
    project = Project(folder, server)
    wrangler = str(WRANGLER_4.node_modules / ".bin" / "wrangler")
    if request.param == "exec":
        command = project.under_exec(wrangler, "dev")
    else:
        command = [wrangler, "dev", "-c", project.emulator("worker", "init").strip()]
    with project.serve(*command) as running:
        indexed = httpx.post(f"{URL}/texts", json=PASSAGES, timeout=120)
        assert indexed.json() == {"num_texts": len(PASSAGES)}, running.log
        yield running


@pytest.mark.parametrize(("question", "passage"), QUESTIONS)
def test_the_worker_answers_a_question_with_a_quotation(
    worker: ServedWorker, question: str, passage: str
) -> None:
    answer = value_of(worker, "answer", question)
    assert answer["found"][0] == passage
    assert answer["quotation"] in answer["found"]


def test_the_worker_ranks_its_texts(worker: ServedWorker) -> None:
    question, passage = QUESTIONS[0]
    found = value_of(worker, "rerank", question)["found"]
    assert len(found) == 3
    assert found[0] == passage


def test_langchain_s_embedding_of_a_question_finds_the_text(worker: ServedWorker) -> None:
    question, passage = QUESTIONS[1]
    assert value_of(worker, "langchain", question)["found"][0] == passage


def value_of(worker: ServedWorker, action: str, question: str) -> Any:
    response = worker.get(f"/{action}?{httpx.QueryParams(question=question)}")
    assert response.status == 200, f"{response}\n{worker.log}"
    return json.loads(response.text)
