"""Tests clients that compute embeddings and rank texts, with the stand-in model for embeddings.

The programs index the first passages of passages.json, and search them for the answers to the
questions in this file.
"""

from __future__ import annotations

import json
import math

import pytest
from workers_ai_emulator.models.embedding_models import EMBEDDING_MODELS

from tests.clients.client import (
    LANGCHAIN_PACKAGES,
    LITELLM_PACKAGES,
    PROGRAMS,
    Client,
    Outcome,
    Outcomes,
    Way,
    value_of,
)
from tests.server import ServerProcess

pytestmark = pytest.mark.documented

BGE_BASE = "@cf/baai/bge-base-en-v1.5"
BGE_M3 = "@cf/baai/bge-m3"
RERANKER = "@cf/baai/bge-reranker-base"
DIMENSIONS = {BGE_BASE: 768, BGE_M3: 1024}
ANSWERS = [
    each["passage"]
    for each in json.loads((PROGRAMS / "passages.json").read_text("utf-8"))["questions"]
]

OPENAI_PYTHON = Client("openai_embeddings_python.py", "openai==3.54.0")
OPENAI_NODE = Client("openai_embeddings_node.mjs", "openai@6.49.0")
CLOUDFLARE_PYTHON_4 = Client("cloudflare_embeddings_python.py", "cloudflare==4.3.1")
CLOUDFLARE_PYTHON_5 = Client("cloudflare_embeddings_python.py", "cloudflare==5.9.0")
CLOUDFLARE_NODE_6 = Client("cloudflare_embeddings_node.mjs", "cloudflare@6.5.0")
CLOUDFLARE_NODE_7 = Client("cloudflare_embeddings_node.mjs", "cloudflare@7.3.0")
LITELLM = Client("litellm_embeddings_python.py", LITELLM_PACKAGES)
LANGCHAIN = Client("langchain_cloudflare_embeddings_python.py", LANGCHAIN_PACKAGES)
LLAMA_INDEX_PACKAGES = (
    "llama-index-embeddings-cloudflare-workersai==0.6.0 llama-index-embeddings-openai-like==0.4.0"
)
LLAMA_INDEX = Client("llama_index_embeddings_python.py cloudflare", LLAMA_INDEX_PACKAGES)
LLAMA_INDEX_OPENAI = Client("llama_index_embeddings_python.py openai_like", LLAMA_INDEX_PACKAGES)
AI_SDK = Client("workers_ai_provider_embeddings_node.mjs", "workers-ai-provider@4.0.0 ai@7.0.173")
OPENAI = (OPENAI_PYTHON, OPENAI_NODE)
CLOUDFLARE_PYTHON = (CLOUDFLARE_PYTHON_4, CLOUDFLARE_PYTHON_5)
CLOUDFLARE_NODE = (CLOUDFLARE_NODE_6, CLOUDFLARE_NODE_7)
HARD_CODED = (LLAMA_INDEX, AI_SDK)
WITHOUT_BODY = (OPENAI_NODE, LANGCHAIN, LLAMA_INDEX)  # their errors do not have the response's body
OPENAI_API = (*OPENAI, LITELLM, LLAMA_INDEX_OPENAI)  # these use `ai/v1`, the others `ai/run`

# For each client: its cases beside those that all clients have, and the class and HTTP status of
# its error for a response with the status 400.
BAD_REQUEST = ("BadRequestError", 400)
CLIENTS: dict[Client, tuple[tuple[str, ...], tuple[str, int | None]]] = {
    **dict.fromkeys(OPENAI, ((f"one_text {BGE_BASE}", f"formats {BGE_BASE}"), BAD_REQUEST)),
    **dict.fromkeys(CLOUDFLARE_PYTHON, (("models",), BAD_REQUEST)),
    **dict.fromkeys(
        CLOUDFLARE_NODE, ((f"rank {BGE_M3}", f"rank {RERANKER}", "models"), BAD_REQUEST)
    ),
    LITELLM: ((), BAD_REQUEST),
    LANGCHAIN: ((f"search_async {BGE_BASE}",), ("HTTPError", 400)),
    LLAMA_INDEX: ((), ("KeyError", None)),
    LLAMA_INDEX_OPENAI: ((), BAD_REQUEST),
    AI_SDK: ((f"rank {BGE_M3}", f"rank {RERANKER}"), ("APICallError", 400)),
}


@pytest.fixture(scope="module")
def outcomes(client: Client, server: ServerProcess) -> Outcomes:
    way: Way = "exec" if client in HARD_CODED else "base_url"
    common = [f"search {BGE_BASE}", f"search {BGE_M3}", "unknown_model", f"too_long {BGE_M3}"]
    return client.run(server.base_url, *common, *CLIENTS[client][0], way=way)


@pytest.mark.parametrize("model", DIMENSIONS)
def test_a_program_finds_the_passages_that_answer_its_questions(
    outcomes: Outcomes, model: str
) -> None:
    expected = {"found": ANSWERS, "dimensions": DIMENSIONS[model]}
    assert value_of(outcomes[f"search {model}"]) == expected


def test_an_unknown_model_raises_the_client_s_own_error(client: Client, outcomes: Outcomes) -> None:
    outcome = outcomes["unknown_model"]
    if client == LLAMA_INDEX:  # it does not check for errors, and this one has null as the result
        assert outcome.get("error") == "TypeError"
        return
    is_openai = client in OPENAI_API
    message = "No such model @cf/baai/bge-9 or task" if is_openai else "No route for that URI"
    assert_is_refusal(client, outcome, message)


def test_a_refused_text_raises_the_client_s_own_error(client: Client, outcomes: Outcomes) -> None:
    outcome = outcomes[f"too_long {BGE_M3}"]
    assert_is_refusal(client, outcome, "AiError: Sequence too long: 9002 > 8192")


def assert_is_refusal(client: Client, outcome: Outcome, message: str) -> None:
    assert (outcome.get("error"), outcome.get("status")) == CLIENTS[client][1], outcome
    if client not in WITHOUT_BODY:
        assert message in json.dumps(outcome)


@pytest.mark.clients(LANGCHAIN)
def test_a_program_searches_with_coroutines(outcomes: Outcomes) -> None:
    assert value_of(outcomes[f"search_async {BGE_BASE}"])["found"] == ANSWERS


@pytest.mark.clients(*OPENAI)
def test_a_response_for_one_text_has_its_embedding_and_no_usage(outcomes: Outcomes) -> None:
    response = value_of(outcomes[f"one_text {BGE_BASE}"])
    (entry,) = response["data"]
    assert (response["object"], response["model"]) == ("list", BGE_BASE)
    assert (entry["object"], entry["index"], len(entry["embedding"])) == ("embedding", 0, 768)
    assert "usage" not in response  # as recorded from the service


@pytest.mark.clients(*OPENAI)
def test_base64_has_the_same_numbers(outcomes: Outcomes) -> None:
    """OpenAI's clients request base64 by default. Its numbers have 32 bits."""
    of_numbers, of_base64 = value_of(outcomes[f"formats {BGE_BASE}"])
    assert len(of_numbers) == len(of_base64) == 2
    for numbers, decoded in zip(of_numbers, of_base64, strict=True):
        assert decoded == pytest.approx(numbers, abs=1e-7)
        assert math.hypot(*decoded) == pytest.approx(1)


@pytest.mark.clients(*CLOUDFLARE_NODE, AI_SDK)
@pytest.mark.parametrize("model", [BGE_M3, RERANKER])
def test_the_passage_with_the_answer_ranks_first(outcomes: Outcomes, model: str) -> None:
    ranked = value_of(outcomes[f"rank {model}"])
    assert ranked[0] == ANSWERS[0]
    assert len(ranked) == len(set(ranked)) == 60


@pytest.mark.clients(*CLOUDFLARE_PYTHON, *CLOUDFLARE_NODE)
def test_the_client_finds_the_models_for_embeddings(outcomes: Outcomes) -> None:
    names = [spec.name for spec in EMBEDDING_MODELS if spec.name != RERANKER]
    assert value_of(outcomes["models"]) == names
