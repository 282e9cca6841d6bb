"""Tests embeddings over HTTP with the stand-in model, also beside generations."""

from __future__ import annotations

import math
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.server import ENDLESS, ServerProcess, server_process, wait_until

BASE, M3 = "@cf/baai/bge-base-en-v1.5", "@cf/baai/bge-m3"
RERANKER = "@cf/baai/bge-reranker-base"
TEXTS = [f"The number {n} is " + "larger than the number before it, " * (n % 9) for n in range(100)]
# Each of these groups of texts is used in one test, because the server keeps embeddings.
TEXTS_BESIDE_A_COMPLETION = [f"{text}!" for text in TEXTS]
TEXTS_AFTER_DISCONNECTS = [f"{text}?" for text in TEXTS[:3]]
LONG = {"text": ["a long text " * 400] * 100}


def vectors(server: ServerProcess, texts: list[str], model: str = BASE) -> list[Any]:
    response = server.run({"text": texts}, model)
    assert response.status_code == 200, response.text
    assert response.headers["x-emulator-model"] == "all-MiniLM-L6-v2.F16"
    data: list[Any] = response.json()["result"]["data"]
    return data


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    """Returns the embedding of each text, computed by a server that does nothing else."""
    texts = [*TEXTS, *TEXTS_BESIDE_A_COMPLETION, *TEXTS_AFTER_DISCONNECTS]
    with server_process("--threads", "1") as other_server:
        return {text: vectors(other_server, [text])[0] for text in texts}


def test_embeddings_have_the_dimensions_of_the_model_and_length_1(
    server: ServerProcess, alone: dict[str, Any]
) -> None:
    assert {len(vector) for vector in alone.values()} == {768}
    assert all(math.isclose(math.hypot(*vector), 1, abs_tol=1e-6) for vector in alone.values())
    assert {len(vector) for vector in vectors(server, TEXTS[:2], M3)} == {1024}


def test_simultaneous_requests_get_the_embeddings_that_the_texts_have_alone(
    server: ServerProcess, alone: dict[str, Any]
) -> None:
    with ThreadPoolExecutor() as pool:
        parts = [TEXTS[start::4] for start in range(4)]
        results = list(pool.map(lambda texts: vectors(server, texts), parts))
    assert results == [[alone[text] for text in part] for part in parts]


def test_texts_that_were_embedded_before_have_the_same_embeddings(
    server: ServerProcess, alone: dict[str, Any]
) -> None:
    texts = ["A text that was never embedded.", *TEXTS[:3]]
    for _ in range(2):
        assert vectors(server, texts)[1:] == [alone[text] for text in TEXTS[:3]]


def test_embeddings_and_a_completion_do_not_change_each_other(
    server: ServerProcess, alone: dict[str, Any]
) -> None:
    texts = TEXTS_BESIDE_A_COMPLETION
    body = ENDLESS | {"max_tokens": 200}
    expected = server.run(body).json()["result"]["response"]
    with ThreadPoolExecutor() as pool:
        completion = pool.submit(server.run, body)
        embeddings = pool.submit(vectors, server, texts)
        assert completion.result().json()["result"]["response"] == expected
        assert embeddings.result() == [alone[text] for text in texts]


def test_a_ranking_puts_the_answer_first(server: ServerProcess) -> None:
    contexts = ["The bank raised its rates.", "Paris is the capital of France.", "Cats sleep."]
    body = {
        "query": "What is France's capital?",
        "contexts": [{"text": text} for text in contexts],
    }
    result = server.run(body, RERANKER).json()["result"]["response"]
    assert result[0]["id"] == 1
    assert sorted(item["id"] for item in result) == [0, 1, 2]


def test_requests_of_clients_that_leave_end(server: ServerProcess, alone: dict[str, Any]) -> None:
    log = len(server.log)
    for _ in range(3):
        server.connect(LONG, BASE).close()
    texts = TEXTS_AFTER_DISCONNECTS
    assert vectors(server, texts) == [alone[text] for text in texts]
    assert not any("Traceback" in line for line in server.log[log:])


def fill_queue(server: ServerProcess) -> list[socket.socket]:
    """Sends long requests until the server refuses a short one. Returns the open connections."""
    connections: list[socket.socket] = []

    def is_full() -> bool:
        connections.append(server.connect(LONG, BASE))
        return server.run({"text": "x"}, BASE).status_code == 429

    wait_until(is_full)
    return connections


def test_requests_beyond_the_queue_are_refused_until_a_client_leaves() -> None:
    with server_process("--queue-size", "1") as server:
        vectors(server, ["the first request loads the model"])
        for connection in fill_queue(server):
            connection.close()
        wait_until(lambda: server.run({"text": "x"}, BASE).status_code == 200)


def test_the_server_stops_while_it_computes_embeddings() -> None:
    with server_process("--queue-size", "1") as server:
        vectors(server, ["the first request loads the model"])
        connections = fill_queue(server)
    for connection in connections:
        connection.close()
    assert server.process.returncode == 0
    assert not any("Traceback" in line for line in server.log)
