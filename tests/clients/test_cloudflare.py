"""Tests Cloudflare's own client libraries: the current and the previous major version of each."""

from __future__ import annotations

import json
import re

import pytest
from workers_ai_emulator.models.catalog import CATALOG
from workers_ai_emulator.wire.accounts import DEFAULT_ACCOUNT

from tests.clients.client import Client, Outcome, Outcomes, Way, assert_is_usage, value_of
from tests.clients.refusing import TOKEN, RefusingServer
from tests.server import ACCOUNT_ID, FP16, INT8, ServerProcess

pytestmark = pytest.mark.documented

CLIENTS = [
    Client("cloudflare_python.py", "cloudflare==5.9.0"),
    Client("cloudflare_python.py", "cloudflare==4.3.1"),
    Client("cloudflare_node.mjs", "cloudflare@7.3.0"),
    Client("cloudflare_node.mjs", "cloudflare@6.5.0"),
]
GENERATING = ["chat", "prompt", "stream"]
LISTING = ["models", "models_one_per_page", "models_found", "schema", "tasks"]
DESCRIBING = ["accounts", "account"]
VERIFYING = ["token", "account_token"]
WRONG = ["unknown_model", "bad_input"]
REQUEST_ID = r"\([0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\)"


@pytest.fixture(scope="module")
def outcomes(client: Client, way: Way, server: ServerProcess) -> Outcomes:
    cases = [*GENERATING, *LISTING, *DESCRIBING, *VERIFYING, *WRONG]
    return client.run(server.base_url, *cases, way=way)


@pytest.fixture(scope="module")
def unauthorized(client: Client, refusing: RefusingServer) -> Outcomes:
    cases = [*GENERATING, *LISTING, *DESCRIBING, *VERIFYING]
    return client.run(refusing.base_url, *cases, token="bad")


@pytest.mark.parametrize("case", ["chat", "prompt"])
def test_a_result_has_a_response_and_its_usage(outcomes: Outcomes, case: str) -> None:
    answer = value_of(outcomes[case])
    assert list(answer) == ["response", "usage"]
    assert isinstance(answer["response"], str) and answer["response"].strip()
    assert_is_usage(answer["usage"])


def test_a_stream_has_the_text_of_the_json_response(outcomes: Outcomes) -> None:
    *events, end = value_of(outcomes["stream"])
    assert end == "[DONE]"
    frames = [json.loads(event) for event in events]
    whole = value_of(outcomes["chat"])
    assert "".join(frame["response"] for frame in frames) == whole["response"]
    assert frames[-1] == {"response": "", "usage": whole["usage"]}


def test_iterating_over_the_models_ends(outcomes: Outcomes) -> None:
    assert value_of(outcomes["models"]) == list(CATALOG)


def test_iterating_over_pages_ends_with_an_empty_page(outcomes: Outcomes) -> None:
    assert value_of(outcomes["models_one_per_page"]) == [*([name] for name in CATALOG), []]


def test_a_search_finds_a_model(outcomes: Outcomes) -> None:
    assert value_of(outcomes["models_found"]) == [FP16]


def test_the_client_reads_a_model_s_schema(outcomes: Outcomes) -> None:
    assert value_of(outcomes["schema"]) == CATALOG[INT8].schema


def test_the_tasks_are_listed(outcomes: Outcomes) -> None:
    expected = ["Text Generation", "Text Embeddings", "Text Classification"]
    assert [task["name"] for task in value_of(outcomes["tasks"])] == expected


def test_the_only_account_is_the_default_account(outcomes: Outcomes) -> None:
    [account] = value_of(outcomes["accounts"])
    assert account == value_of(outcomes["account"])
    assert account["id"] == ACCOUNT_ID == DEFAULT_ACCOUNT


@pytest.mark.parametrize("case", VERIFYING)
def test_a_token_is_active(outcomes: Outcomes, case: str) -> None:
    verified = value_of(outcomes[case])
    assert verified["status"] == "active"
    assert re.fullmatch("[0-9a-f]{32}", verified["id"])


def test_an_unknown_model_is_a_bad_request(outcomes: Outcomes) -> None:
    assert_is_error(
        outcomes["unknown_model"],
        ("BadRequestError", 400, 7000),
        "No route for that URI",
    )


def test_bad_input_is_a_bad_request(outcomes: Outcomes) -> None:
    assert_is_error(
        outcomes["bad_input"],
        ("BadRequestError", 400, 5006),
        "AiError: Bad input: Error: .*'/temperature' must be <= 5 " + REQUEST_ID,
    )


@pytest.mark.parametrize("case", [*GENERATING, *LISTING, *DESCRIBING])
def test_a_wrong_token_is_an_authentication_error(unauthorized: Outcomes, case: str) -> None:
    assert_is_error(unauthorized[case], ("AuthenticationError", 401, 10000), "Authentication error")


@pytest.mark.parametrize("case", VERIFYING)
def test_a_wrong_token_is_not_verified(unauthorized: Outcomes, case: str) -> None:
    assert_is_error(unauthorized[case], ("AuthenticationError", 401, 1000), "Invalid API Token")


def test_a_malformed_account_id_is_not_found(client: Client, server: ServerProcess) -> None:
    outcome = client.run(server.base_url, "chat", account_id="my-account")["chat"]
    path = f"/client/v4/accounts/my-account/ai/run/{INT8}"
    message = f"Could not route to {path}, perhaps your object identifier is invalid\\?"
    assert_is_error(outcome, ("NotFoundError", 404, 7003), message)


def test_a_busy_server_is_a_rate_limit_error(client: Client, refusing: RefusingServer) -> None:
    with refusing.busy():
        outcomes = client.run(refusing.base_url, "chat_without_retries", token=TOKEN)
    assert_is_error(
        outcomes["chat_without_retries"],
        ("RateLimitError", 429, 3040),
        "AiError: Capacity temporarily exceeded, please try again. " + REQUEST_ID,
    )


def test_the_client_retries_a_request_that_got_429(
    client: Client, refusing: RefusingServer
) -> None:
    outcomes = refusing.busy_until_it_refuses(
        lambda: client.run(refusing.base_url, "chat", token=TOKEN)
    )
    assert_is_usage(value_of(outcomes["chat"])["usage"])


def assert_is_error(outcome: Outcome, kind: tuple[str, int, int], message_pattern: str) -> None:
    class_name, status, code = kind
    assert (outcome.get("error"), outcome.get("status")) == (class_name, status), outcome
    (entry,) = outcome["errors"]
    assert entry["code"] == code
    assert re.fullmatch(message_pattern, entry["message"]), outcome
