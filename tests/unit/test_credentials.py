"""Tests where credentials are found: in headers, parameters, JSON keys and paths."""

from __future__ import annotations

import json
from typing import Any

import pytest
from starlette.datastructures import Headers
from workers_ai_emulator.middleware.recordings.request import RecordedRequest
from workers_ai_emulator.wire import endpoints
from workers_ai_emulator.wire.calls import InferenceCall
from workers_ai_emulator.wire.credentials import is_credential_name
from workers_ai_emulator.wire.redaction import Redaction

SECRET = "gk-9876543210abc"
RUN = InferenceCall(endpoints.RUN_MODEL, "/ai/run/@cf/a/b", "0" * 32, "@cf/a/b")
UNIVERSAL = InferenceCall(endpoints.GATEWAY_UNIVERSAL, "", "0" * 32, None)


def redaction(**headers: str) -> Redaction:
    return Redaction(Headers({name.replace("_", "-"): value for name, value in headers.items()}))


@pytest.mark.parametrize(
    "name",
    [
        "x-goog-api-key",
        "anthropic-api-key",
        "x-auth-token",
        "api_token",
        "apiKey",
        "API-Keys",
        "accessToken",
        "client_secret",
        "X-Amz-Signature",
        "session.cookie",
        "dbPassword",
        "credentials",
        "refresh_tokens",
    ],
)
def test_a_word_of_the_name_decides_that_a_value_is_a_credential(name: str) -> None:
    assert is_credential_name(name)


@pytest.mark.parametrize(
    "name",
    ["max_tokens", "prompt_tokens", "tokenizer", "keys", "keyboard", "author", "monkey", "sign"],
)
def test_a_part_of_a_word_is_no_credential(name: str) -> None:
    assert not is_credential_name(name)


@pytest.mark.parametrize(
    "body",
    [
        {"api_key": SECRET, "prompt": f"it is {SECRET}"},
        {"auth": {"type": "basic", "user": "me", "pass": SECRET}, "prompt": SECRET},
        {"secrets": [SECRET], "prompt": SECRET},
        {"image": f"https://example.com/a?size=1&access_token={SECRET}", "prompt": SECRET},
        {"arguments": json.dumps({"password": SECRET}), "prompt": SECRET},
    ],
)
def test_a_value_is_redacted_at_its_name_and_elsewhere_in_the_call(body: Any) -> None:
    found = redaction()
    request = RecordedRequest.of(RUN, f"q={SECRET}".encode(), json.dumps(body).encode(), found)
    assert SECRET not in request.canonical and "[redacted]" in request.canonical
    assert found.text(f"completion: {SECRET}") == "completion: [redacted]"


def test_every_value_in_a_steps_headers_is_redacted_except_media_types() -> None:
    headers = {"x-goog-api-key": SECRET, "x-other": "a value", "Content-Type": "application/json"}
    steps = [{"provider": "workers-ai", "endpoint": "@cf/a/b", "headers": headers, "query": {}}]
    request = RecordedRequest.of(UNIVERSAL, b"", json.dumps(steps).encode(), redaction())
    assert request.content["body"][0]["headers"] == {
        "x-goog-api-key": "[redacted]",
        "x-other": "[redacted]",
        "Content-Type": "application/json",
    }


@pytest.mark.parametrize("end", ['"', "\\", ""])
def test_the_escapes_of_a_steps_header_are_redacted(end: str) -> None:
    body = f'[{{"headers": {{"a\\"b": "c\\"{SECRET}\\\\{end}'
    assert SECRET not in redaction().json(body)


def test_a_string_of_escapes_is_redacted_in_linear_time() -> None:
    body = '{"headers":{"' + '\\"' * 100_000  # quadratic time would be several minutes
    assert redaction().json(body) == body


def test_a_steps_headers_are_redacted_in_a_body_that_is_cut_off() -> None:
    body = f'[{{"headers": {{"x-other": "{SECRET}", "b": "c}}d"}}, "query": {{"prompt": "{SECRET}'
    assert redaction().json(body) == (
        '[{"headers": {"x-other": "[redacted]", "b": "[redacted]"}, "query": {"prompt": "[redacted]'
    )


@pytest.mark.parametrize(
    ("query", "redacted"),
    [
        (f"api_token={SECRET}&a=1", "api_token=[redacted]&a=1"),
        (f"a={SECRET}&X-Amz-Signature={SECRET}", "a=[redacted]&X-Amz-Signature=[redacted]"),
        ("api%5Fkey=abc", "api%5Fkey=[redacted]"),
        ("max_tokens=100&tokenizer=llama", "max_tokens=100&tokenizer=llama"),
    ],
)
def test_a_query_is_redacted_by_the_names_of_its_parameters(query: str, redacted: str) -> None:
    assert redaction().query(query) == redacted


@pytest.mark.parametrize(
    ("path", "redacted"),
    [
        ("/v1/token/a1b2c3d4/run", "/v1/token/[redacted]/run"),
        ("/v4/accounts/sk-0123456789abcdef/ai/@cf/a/b", "/v4/accounts/[redacted]/ai/@cf/a/b"),
        ("/accounts/v1Ab" + "cD3" * 12 + "/ai", "/accounts/[redacted]/ai"),
        ("/run;a=1?api_key=abc", "/run;a=1?api_key=[redacted]"),
        ("/client/v4/user/tokens/verify",) * 2,
        (f"/client/v4/accounts/{'0123456789abcdef' * 2}/ai/run/@cf/meta/llama-2-7b",) * 2,
    ],
)
def test_a_token_in_a_path_is_redacted(path: str, redacted: str) -> None:
    assert redaction().path(path) == redacted


def test_a_header_with_the_name_of_a_credential_is_hidden_and_its_value_is_a_secret() -> None:
    found = redaction(x_auth_token=SECRET)
    assert found.text(f"a {SECRET}") == "a [redacted]"
    assert found.headers([("x-auth-token", "short"), ("referer", "http://a/?token=b")]) == {
        "x-auth-token": "[redacted]",
        "referer": "http://a/?token=[redacted]",
    }


def test_the_parameters_in_a_tools_schema_are_no_credentials() -> None:
    tool = {"parameters": {"properties": {"api_key": {"type": "string"}}, "required": ["api_key"]}}
    assert redaction().value({"tools": [tool]}) == {"tools": [tool]}


def test_numbers_and_booleans_about_tokens_are_no_credentials() -> None:
    body = {"token_count": 3, "skip_token": True, "key": None, "stop_token_ids": [1, 2]}
    assert redaction().value(body) == body


def test_a_request_with_thousands_of_credentials_is_redacted_at_their_names() -> None:
    body = {f"key {number}": f"secret-{number}" for number in range(5000)}
    assert set(redaction().value(body).values()) == {"[redacted]"}


@pytest.mark.parametrize(
    ("call", "query", "body", "key"),
    [
        (
            RUN,
            b"version=3&tokens=9",
            {"messages": [{"role": "user", "content": "b=c"}], "max_tokens": 8, "token_count": 3},
            "3a706042e3043bd7",
        ),
        (
            UNIVERSAL,
            b"",
            [
                {
                    "provider": "workers-ai",
                    "endpoint": "@cf/x",
                    "headers": {"Authorization": "Bearer a", "Content-Type": "application/json"},
                    "query": {"prompt": "Hi"},
                }
            ],
            "39f8d2da87f2ab77",
        ),
    ],
)
def test_recordings_of_earlier_versions_still_match(
    call: InferenceCall, query: bytes, body: Any, key: str
) -> None:
    assert RecordedRequest.of(call, query, json.dumps(body).encode(), redaction()).key == key
