"""Tests frameworks that call Workers AI, with a base URL if possible and otherwise under `exec`."""

from __future__ import annotations

import pytest

from tests.clients.client import (
    LANGCHAIN_PACKAGES,
    LITELLM_PACKAGES,
    Client,
    Outcomes,
    Way,
    assert_is_usage,
    value_of,
)
from tests.server import ServerProcess

pytestmark = pytest.mark.documented

LANGCHAIN_COMMUNITY = Client("langchain_community_python.py", "langchain-community==0.4.2")
LANGCHAIN_NODE = Client("langchain_cloudflare_node.mjs", "@langchain/cloudflare@1.1.0")
AI_SDK = Client("workers_ai_provider_node.mjs", "workers-ai-provider@4.0.0 ai@7.0.173")
PYDANTIC_AI = Client("pydantic_ai_cloudflare_python.py", "pydantic-ai-cloudflare==0.2.5")
HARD_CODED = [AI_SDK, PYDANTIC_AI]

# For each client: the exception for an unknown model, its HTTP status, and a part of its message.
BODY = "No such model @cf/meta/llama-9"
RUN_BODY = "No route for that URI"  # of `ai/run`
RAISED_BY_HTTPX = ("HTTPStatusError", 400, "400 Bad Request")
CLIENTS = {
    Client("litellm_python.py ai/v1", LITELLM_PACKAGES): ("BadRequestError", 400, BODY),
    Client("litellm_python.py ai/run/", "litellm==1.72.0"): ("APIConnectionError", 500, RUN_BODY),
    Client("langchain_cloudflare_python.py workers_ai", LANGCHAIN_PACKAGES): RAISED_BY_HTTPX,
    Client("langchain_cloudflare_python.py openai_compatible", LANGCHAIN_PACKAGES): RAISED_BY_HTTPX,
    LANGCHAIN_COMMUNITY: ("ValueError", None, "Request failed with status 400"),
    LANGCHAIN_NODE: ("Error", 400, "Cloudflare LLM call failed with status code 400"),
    AI_SDK: ("APICallError", 400, RUN_BODY),
    PYDANTIC_AI: ("ModelRequestRejectedError", 400, BODY),
}


@pytest.fixture(scope="module")
def outcomes(client: Client, server: ServerProcess) -> Outcomes:
    way: Way = "exec" if client in HARD_CODED else "base_url"
    return client.run(server.base_url, "chat", "stream", "unknown_model", way=way)


def test_a_completion_has_text_and_usage_if_the_client_returns_usage(outcomes: Outcomes) -> None:
    answer = value_of(outcomes["chat"])
    assert answer["text"].strip()
    if "usage" in answer:
        assert_is_usage(answer["usage"])


def test_a_stream_has_the_text_of_the_json_response(client: Client, outcomes: Outcomes) -> None:
    pieces = value_of(outcomes["stream"])
    assert sum(piece != "" for piece in pieces) > 1
    if client != LANGCHAIN_NODE:  # it cannot set the temperature, so its completions differ
        assert "".join(pieces) == value_of(outcomes["chat"])["text"]


def test_an_unknown_model_raises_the_client_s_own_error(client: Client, outcomes: Outcomes) -> None:
    error, status, message = CLIENTS[client]
    outcome = outcomes["unknown_model"]
    assert (outcome.get("error"), outcome.get("status")) == (error, status), outcome
    assert message in outcome["message"]
