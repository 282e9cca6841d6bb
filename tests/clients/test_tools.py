"""Tests that clients call tools and get objects from today's models.

With the backend `scripted`, the programs call tools until the completion is a text. With the
stand-in model, they force a tool call, and get objects. Sampling is then constrained, so the
results are valid.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.clients.client import (
    LANGCHAIN_PACKAGES,
    LITELLM_PACKAGES,
    Client,
    Outcomes,
    Way,
    value_of,
)
from tests.server import ServerProcess
from tests.weather import OSLO, PARIS, REASONING, REPORT

pytestmark = pytest.mark.documented

LLAMA = "@cf/meta/llama-3.3-70b-instruct-fp8-fast"
QWEN = "@cf/qwen/qwen3-30b-a3b-fp8"
GPT_OSS = "@cf/openai/gpt-oss-20b"
GEMMA = "@cf/google/gemma-4-26b-a4b-it"
MODELS = (LLAMA, QWEN, GPT_OSS, GEMMA)

LANGCHAIN_RUN = Client("langchain_cloudflare_tools_python.py workers_ai", LANGCHAIN_PACKAGES)
LANGCHAIN_V1 = Client("langchain_cloudflare_tools_python.py openai_compatible", LANGCHAIN_PACKAGES)
OPENAI_PYTHON = Client("openai_tools_python.py", "openai==3.54.0")
OPENAI_NODE = Client("openai_tools_node.mjs", "openai@6.49.0 zod@4.6.7")
# LiteLLM 1.106.2 imports the package mcp if a request has tools, but does not depend on it.
LITELLM = Client("litellm_tools_python.py", LITELLM_PACKAGES)
AI_SDK = Client("workers_ai_provider_tools_node.mjs", "workers-ai-provider@4.0.0 ai@7.0.173")
PYDANTIC_AI = Client("pydantic_ai_cloudflare_tools_python.py", "pydantic-ai-cloudflare==0.2.5")

# For each client, its cases with the script and its cases with the stand-in model.
CLIENTS = {
    OPENAI_PYTHON: ("loop loop_null stream stream_helper", "forced report"),
    OPENAI_NODE: ("loop loop_null stream stream_helper", "forced report"),
    LITELLM: ("loop loop_null stream", "forced report"),
    LANGCHAIN_RUN: ("loop report", "forced"),  # it drops the tool calls of a stream
    LANGCHAIN_V1: ("loop report", "forced"),
    AI_SDK: ("loop stream", "forced report report_stream"),
    PYDANTIC_AI: ("loop_null stream", "forced report"),
}
HARD_CODED = (AI_SDK, PYDANTIC_AI)
# With streams of llama-3.3, which have two forms of each piece, this client joins the pieces of
# both forms. It does the same with the service (github.com/cloudflare/ai/pull/615).
DOUBLED = (AI_SDK, LLAMA)


def having(case: str) -> pytest.MarkDecorator:
    """Returns the mark of a test that runs with the clients that have this case."""
    return pytest.mark.clients(*(c for c in CLIENTS if case in " ".join(CLIENTS[c]).split()))


@pytest.fixture(scope="module")
def outcomes(client: Client, scripted: ServerProcess, server: ServerProcess) -> Outcomes:
    """The outcomes of all cases of the client. The key of a case is its name and the model."""
    way: Way = "exec" if client in HARD_CODED else "base_url"
    with_script, with_model = (
        [f"{case} {model}" for case in cases.split() for model in MODELS]
        for cases in CLIENTS[client]
    )
    return client.run(scripted.base_url, *with_script, way=way) | client.run(
        server.base_url, *with_model, way=way
    )


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


@having("loop")
def test_a_program_calls_tools_until_the_completion_is_a_text(
    outcomes: Outcomes, model: str
) -> None:
    assert_is_loop(value_of(outcomes[f"loop {model}"]))


@having("loop_null")
def test_only_gemma_accepts_a_turn_whose_content_is_null(outcomes: Outcomes, model: str) -> None:
    """The service refuses it, too, for llama-3.3, qwen3 and gpt-oss. [recorded]"""
    outcome = outcomes[f"loop_null {model}"]
    if model == GEMMA:
        assert_is_loop(value_of(outcome))
    else:
        assert outcome["status"] == 400, outcome


@having("stream")
def test_a_stream_has_the_tool_call(client: Client, outcomes: Outcomes, model: str) -> None:
    name, arguments = value_of(outcomes[f"stream {model}"])["calls"][0]
    if (client, model) == DOUBLED:
        assert name == PARIS[0] and arguments.count("Paris") == 2
    else:
        assert [name, arguments] == PARIS


@having("stream_helper")
def test_the_client_s_stream_helper_assembles_the_tool_call(
    client: Client, outcomes: Outcomes, model: str
) -> None:
    """The service's recorded Llama streams contain no role; node's helper `stream()` needs one."""
    outcome = outcomes[f"stream_helper {model}"]
    if client == OPENAI_NODE and model == LLAMA:
        assert outcome["message"] == "missing role for choice 0"
    else:
        assert value_of(outcome)["calls"] == [PARIS]


def test_the_client_returns_the_reasoning(client: Client, outcomes: Outcomes, model: str) -> None:
    case = "stream" if client == PYDANTIC_AI else "loop"
    assert value_of(outcomes[f"{case} {model}"])["reasoning"] == REASONING


@having("forced")
def test_a_forced_tool_call_has_valid_arguments(outcomes: Outcomes, model: str) -> None:
    calls = value_of(outcomes[f"forced {model}"])
    assert calls
    assert all(call in (PARIS, OSLO) for call in calls)


@having("report")
def test_the_client_returns_an_object_of_the_given_type(outcomes: Outcomes, model: str) -> None:
    assert_is_report(value_of(outcomes[f"report {model}"]))


@having("report_stream")
def test_the_client_assembles_an_object_from_a_stream(
    client: Client, outcomes: Outcomes, model: str
) -> None:
    outcome = outcomes[f"report_stream {model}"]
    if (client, model) == DOUBLED:
        assert outcome["message"] == "No object generated: could not parse the response."
    else:
        assert_is_report(value_of(outcome))


def assert_is_loop(value: Any) -> None:
    assert value["calls"] == [PARIS, OSLO]
    assert value["text"] == "Paris is warmer."


def assert_is_report(value: Any) -> None:
    assert set(value) == set(REPORT)
    assert value["city"] in ("Paris", "Oslo")
    assert value["sky"] in ("sunny", "cloudy")
    assert type(value["is_warm"]) is bool
