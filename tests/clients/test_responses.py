"""Tests OpenAI's clients on the Responses API, which the service offers for gpt-oss."""

from __future__ import annotations

import pytest

from tests.clients.client import Client, Outcomes, value_of
from tests.server import ServerProcess
from tests.weather import OSLO, PARIS

pytestmark = pytest.mark.documented

MODEL = "@cf/openai/gpt-oss-20b"
LLAMA = "@cf/meta/llama-3.3-70b-instruct-fp8-fast"
CLIENTS = [
    Client("openai_tools_python.py", "openai==3.54.0"),
    Client("openai_tools_node.mjs", "openai@6.49.0 zod@4.6.7"),
]
CASES = ("response", "response_stream", "response_loop")


@pytest.fixture(scope="module")
def outcomes(client: Client, scripted: ServerProcess) -> Outcomes:
    cases = [f"{case} {MODEL}" for case in CASES]
    return client.run(scripted.base_url, *cases, f"response {LLAMA}")


def test_a_response_has_a_text_and_its_usage(outcomes: Outcomes) -> None:
    response = value_of(outcomes[f"response {MODEL}"])
    usage = response["usage"]
    assert response["text"] == "It is sunny in Paris."
    assert response["types"] == ["reasoning", "message"]
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]


def test_a_stream_has_the_text_of_the_json_response(outcomes: Outcomes) -> None:
    stream = value_of(outcomes[f"response_stream {MODEL}"])
    assert stream["text"] == value_of(outcomes[f"response {MODEL}"])["text"]
    assert stream["last"] == "response.completed"


def test_a_program_calls_tools_until_the_response_is_a_text(outcomes: Outcomes) -> None:
    loop = value_of(outcomes[f"response_loop {MODEL}"])
    assert (loop["calls"], loop["text"]) == ([PARIS, OSLO], "Paris is warmer.")


def test_a_model_without_the_key_input_is_a_bad_request(outcomes: Outcomes) -> None:
    outcome = outcomes[f"response {LLAMA}"]
    assert (outcome["error"], outcome["status"]) == ("BadRequestError", 400)
    assert "AiError: Bad input: " in outcome["message"]
