"""Tests OpenAI's own client libraries on the endpoints `/ai/v1`."""

from __future__ import annotations

import pytest

from tests.clients.client import Client, Outcome, Outcomes, Way, assert_is_usage, value_of
from tests.clients.refusing import TOKEN, RefusingServer
from tests.server import INT8, ServerProcess

pytestmark = pytest.mark.documented

CLIENTS = [
    Client("openai_python.py", "openai==3.54.0"),
    Client("openai_node.mjs", "openai@6.49.0"),
]
STREAMING = ["stream", "stream_with_usage"]
GENERATING = ["chat", "prompt", *STREAMING, "prompt_stream"]
WRONG = ["unknown_model", "bad_input"]


@pytest.fixture(scope="module")
def outcomes(client: Client, way: Way, server: ServerProcess) -> Outcomes:
    return client.run(server.base_url, *GENERATING, "stream_helper", *WRONG, way=way)


@pytest.fixture(scope="module")
def unauthorized(client: Client, refusing: RefusingServer) -> Outcomes:
    return client.run(refusing.base_url, *GENERATING, token="bad")


def test_a_chat_is_a_chat_completion(outcomes: Outcomes) -> None:
    completion = value_of(outcomes["chat"])
    (choice,) = completion["choices"]
    assert isinstance(completion["id"], str) and type(completion["created"]) is int
    assert (completion["object"], completion["model"]) == ("chat.completion", INT8)
    assert (choice["index"], choice["finish_reason"]) == (0, "length")
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["content"].strip()
    assert_is_usage(completion["usage"])


def test_a_prompt_is_a_text_completion(outcomes: Outcomes) -> None:
    completion = value_of(outcomes["prompt"])
    (choice,) = completion["choices"]
    assert (completion["object"], completion["model"]) == ("text_completion", INT8)
    assert (choice["index"], choice["finish_reason"]) == (0, "length")
    assert choice["text"].strip()
    assert_is_usage(completion["usage"])


@pytest.mark.parametrize("case", STREAMING)
def test_every_event_of_a_stream_has_text(outcomes: Outcomes, case: str) -> None:
    events = [event for event in value_of(outcomes[case]) if event["choices"]]
    assert {event["object"] for event in events} == {"chat.completion.chunk"}
    assert all(isinstance(event["choices"][0]["delta"]["content"], str) for event in events)
    text = "".join(event["choices"][0]["delta"]["content"] for event in events)
    assert text == value_of(outcomes["chat"])["choices"][0]["message"]["content"]
    assert events[-1]["choices"][0]["finish_reason"] == "length"


def test_a_stream_has_no_event_without_a_choice(outcomes: Outcomes) -> None:
    assert all(event["choices"] for event in value_of(outcomes["stream"]))


def test_a_stream_that_includes_the_usage_ends_with_it(outcomes: Outcomes) -> None:
    *events, last = value_of(outcomes["stream_with_usage"])
    assert all(event["choices"] for event in events)
    assert last["choices"] == []
    assert last["usage"] == value_of(outcomes["chat"])["usage"]
    assert_is_usage(last["usage"])


def test_the_client_s_stream_helper_finds_no_role(client: Client, outcomes: Outcomes) -> None:
    """The service's recorded Llama streams contain no role; node's helper `stream()` needs one."""
    outcome = outcomes["stream_helper"]
    if client.language == "node":
        assert outcome["message"] == "missing role for choice 0"
        return
    message = value_of(outcome)["choices"][0]["message"]
    assert message.get("role") is None
    assert message["content"] == value_of(outcomes["chat"])["choices"][0]["message"]["content"]


def test_a_prompt_s_stream_has_the_text_of_the_json_response(outcomes: Outcomes) -> None:
    choices = [event["choices"][0] for event in value_of(outcomes["prompt_stream"])]
    whole = value_of(outcomes["prompt"])["choices"][0]
    assert "".join(choice["text"] for choice in choices) == whole["text"]
    assert choices[-1]["finish_reason"] == whole["finish_reason"]


@pytest.mark.parametrize(("case", "code"), [("unknown_model", 5007), ("bad_input", 5006)])
def test_a_wrong_request_is_a_bad_request(
    client: Client, outcomes: Outcomes, case: str, code: int
) -> None:
    assert_is_error(client, outcomes[case], ("BadRequestError", 400, code))


@pytest.mark.parametrize("case", GENERATING)
def test_a_wrong_token_is_an_authentication_error(
    client: Client, unauthorized: Outcomes, case: str
) -> None:
    assert_is_error(client, unauthorized[case], ("AuthenticationError", 401, 10000))


def test_a_malformed_account_id_is_not_found(client: Client, server: ServerProcess) -> None:
    outcome = client.run(server.base_url, "chat", account_id="my-account")["chat"]
    assert_is_error(client, outcome, ("NotFoundError", 404, 7003))


def test_a_busy_server_is_a_rate_limit_error(client: Client, refusing: RefusingServer) -> None:
    with refusing.busy():
        outcomes = client.run(refusing.base_url, "chat_without_retries", token=TOKEN)
    assert_is_error(client, outcomes["chat_without_retries"], ("RateLimitError", 429, 3040))


def test_the_client_retries_a_request_that_got_429(
    client: Client, refusing: RefusingServer
) -> None:
    outcomes = refusing.busy_until_it_refuses(
        lambda: client.run(refusing.base_url, "chat", token=TOKEN)
    )
    assert_is_usage(value_of(outcomes["chat"])["usage"])


def assert_is_error(client: Client, outcome: Outcome, kind: tuple[str, int, int]) -> None:
    """Asserts that the outcome is an error with this exception name, status and error code.

    Compares the error code only for Python, because node's client drops error bodies that are not
    in OpenAI's format.
    """
    class_name, status, code = kind
    assert (outcome.get("error"), outcome.get("status")) == (class_name, status), outcome
    if client.language == "python":
        assert [entry["code"] for entry in outcome["body"]["errors"]] == [code]
