"""Tests the header `cf-ai-neurons`: the cost of a response, with two decimals."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.server import ACCOUNT_ID, INT8, ServerProcess

KIMI = "@cf/moonshotai/kimi-k2.6"
MESSAGES = {"messages": [{"role": "user", "content": "Hi"}]}
GATEWAY = f"/v1/{ACCOUNT_ID}/gw/workers-ai/{KIMI}"


def post(server: ServerProcess, path: str, body: Any, **headers: str) -> httpx.Response:
    """Returns the response to a request. `path`: a path of AI Gateway, or the path after `ai/`."""
    root = server.root if path.startswith("/") else f"{server.base_url}/accounts/{ACCOUNT_ID}/ai/"
    return httpx.post(root + path, json=body, headers={"authorization": "Bearer x", **headers})


@pytest.mark.recorded
@pytest.mark.parametrize("path", [f"run/{KIMI}", "v1/chat/completions", GATEWAY])
def test_a_whole_completion_has_its_neurons_with_two_decimals(
    faulty: ServerProcess, path: str
) -> None:
    response = post(faulty, path, {"model": KIMI, **MESSAGES})
    body = response.json()
    neurons = body.get("result", body)["usage"]["neurons"]
    assert neurons > 0 and response.headers["cf-ai-neurons"] == f"{neurons:.2f}"


@pytest.mark.inferred
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("run/@cf/baai/bge-m3", {"text": ["word " * 200]}),
        ("run/@cf/baai/bge-m3", {"query": "word", "contexts": [{"text": "word " * 8000}]}),
        ("run/@cf/qwen/qwen3-embedding-0.6b", {"text": "word " * 200}),
        ("run/@cf/baai/bge-reranker-base", {"query": "word", "contexts": [{"text": "word"}]}),
        ("v1/embeddings", {"model": "@cf/baai/bge-m3", "input": "word " * 8000}),
    ],
)
def test_embeddings_and_rankings_have_their_neurons(
    faulty: ServerProcess, path: str, body: Any
) -> None:
    response = post(faulty, path, body)
    neurons = response.headers["cf-ai-neurons"]
    assert response.status_code == 200
    assert neurons == f"{float(neurons):.2f}"
    result = response.json().get("result", {})
    if usage := result.get("usage") or result.get("meta"):
        assert neurons == f"{usage['neurons']:.2f}"
    else:
        assert float(neurons) > 1


@pytest.mark.inferred
@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        (f"run/{KIMI}", {**MESSAGES, "stream": True}, 200),
        (f"run/{INT8}", MESSAGES, 200),
        (f"run/{KIMI}", {**MESSAGES, "stop": ["a", "b", "c", "d", "e"]}, 400),
        ("run/@cf/baai/bge-m3", {"text": 1}, 400),
    ],
    ids=["stream", "retired", "error", "embedding-error"],
)
def test_streams_errors_and_retired_models_have_no_neurons(
    faulty: ServerProcess, path: str, body: Any, status: int
) -> None:
    response = post(faulty, path, body)
    assert response.status_code == status, response.text
    assert "cf-ai-neurons" not in response.headers


@pytest.mark.inferred
def test_a_response_from_the_cache_of_ai_gateway_has_no_neurons(faulty: ServerProcess) -> None:
    key = {"cf-aig-cache-key": "neurons"}
    responses = [post(faulty, GATEWAY, MESSAGES, **key) for _ in range(2)]
    statuses = [response.headers["cf-aig-cache-status"] for response in responses]
    assert statuses == ["MISS", "HIT"]
    assert ["cf-ai-neurons" in response.headers for response in responses] == [True, False]
