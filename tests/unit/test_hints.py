"""Tests the hints in the log lines of refused requests."""

from __future__ import annotations

import pytest
from workers_ai_emulator.models.catalog import CATALOG
from workers_ai_emulator.models.validator import SchemaMismatch
from workers_ai_emulator.wire.errors import (
    BAD_INPUT,
    CREDENTIALS_MISSING,
    GATEWAY_NOT_CONFIGURED,
    INVALID_ACCOUNT,
    NO_ROUTE,
    ErrorType,
    WireError,
)
from workers_ai_emulator.wire.hints import hint_of, provider_hint

from tests.asgi import http_scope
from tests.server import ACCOUNT_ID

BASE_URL = "http://localhost:1/client/v4"
OPENAI = f"OpenAI clients need the base URL {BASE_URL}/accounts/ACCOUNT_ID/ai/v1"
ANTHROPIC_CLIENT = f"Anthropic clients need the base URL {BASE_URL}/accounts/ACCOUNT_ID/ai"
ACCOUNT = "/client/v4/accounts"
BAD_ACCOUNT = "account id 'x' is refused: use any 32 hexadecimal digits (0-9, a-f)"
ANTHROPIC = "provider anthropic is not emulated, only workers-ai and compat"


def hint(path: str, type: ErrorType = NO_ROUTE, host: str = "localhost:1") -> str:
    return hint_of(http_scope(path, headers={"host": host}), WireError(type, path))


@pytest.mark.parametrize(
    "path",
    [
        "/chat/completions",
        "/embeddings",
        "/v1/embeddings",
        "/v1/models",
        "/client/v4/chat/completions",
        "/client/v4/ai/v1/responses",
        f"{ACCOUNT}/{ACCOUNT_ID}/chat/completions",
        f"{ACCOUNT}/{ACCOUNT_ID}/v1/chat/completions",
        f"{ACCOUNT}/{ACCOUNT_ID}/ai/v1/v1/chat/completions",
        f"/accounts/{ACCOUNT_ID}/ai/v1/chat/completions",
    ],
)
def test_a_wrong_base_url_of_an_openai_client_gets_the_right_one(path: str) -> None:
    assert hint(path) == OPENAI


@pytest.mark.parametrize(
    "model",
    ["@cf/openai/gpt-oss-20b", "@cf/meta/llama-3.1-8b-instruct", "@cf/qwen/qwen3-30b-a3b-fp8"],
)
def test_a_message_without_a_content_gets_the_way_to_send_none(model: str) -> None:
    validator = CATALOG[model].validator
    for content in ({}, {"content": None}):
        with pytest.raises(SchemaMismatch) as mismatch:
            validator.validate({"messages": [{"role": "assistant"} | content]})
        error = WireError(BAD_INPUT, mismatch.value)
        assert "may be an empty text, but not null" in hint_of(http_scope("/"), error)
    assert not hint_of(http_scope("/"), WireError(BAD_INPUT, "required properties at '/' are 'x'"))


@pytest.mark.parametrize(
    "path",
    [
        "/v1/messages",
        f"{ACCOUNT}/{ACCOUNT_ID}/v1/messages",
        f"{ACCOUNT}/{ACCOUNT_ID}/ai/v1/v1/messages",
        f"{ACCOUNT}/{ACCOUNT_ID}/ai/v1/v1/messages/count_tokens",
    ],
)
def test_a_wrong_base_url_of_an_anthropic_client_gets_the_right_one(path: str) -> None:
    assert hint(path) == ANTHROPIC_CLIENT


def test_a_token_in_another_header_gets_the_right_header() -> None:
    error = WireError(CREDENTIALS_MISSING)
    found = hint_of(http_scope("/", headers={"x-api-key": "secret"}), error)
    assert "x-api-key is not read, send the token in `Authorization: Bearer TOKEN`" in found
    assert hint_of(http_scope("/"), error) == ""


def test_the_gateway_named_chat_is_a_wrong_base_url() -> None:
    assert hint("/v1/chat/completions", GATEWAY_NOT_CONFIGURED) == OPENAI


def test_a_program_under_exec_gets_the_base_url_of_the_service() -> None:
    found = hint("/v1/embeddings", host="api.cloudflare.com")
    assert found.endswith(" https://api.cloudflare.com/client/v4/accounts/ACCOUNT_ID/ai/v1")


@pytest.mark.parametrize(
    "path", [f"/accounts/{ACCOUNT_ID}/ai/run/@cf/a/b", "/v4/accounts/x/ai/run", "/user/tokens"]
)
def test_a_path_without_its_beginning_gets_the_beginning(path: str) -> None:
    assert hint(path) == "the path begins with /client/v4"


def test_a_mistyped_list_of_models_gets_its_path() -> None:
    found = hint(f"{ACCOUNT}/{ACCOUNT_ID}/ai/models")
    assert found == "the list of models is ai/models/search"


def test_the_root_gets_the_base_url_and_the_dashboard() -> None:
    assert hint("/") == f"the base URL is {BASE_URL}, and the dashboard is at /_emulator/"


@pytest.mark.parametrize(
    ("path", "type"),
    [
        (f"{ACCOUNT}/x/ai/run/@cf/a/b", INVALID_ACCOUNT),
        (f"{ACCOUNT}/x/ai/v1/chat/completions", INVALID_ACCOUNT),
        (f"{ACCOUNT}/x/nothing", NO_ROUTE),
        (f"{ACCOUNT}/x/ai/models", INVALID_ACCOUNT),
        ("/v1/x/gw", GATEWAY_NOT_CONFIGURED),
        ("/v1/x/gw/workers-ai/@cf/a/b", GATEWAY_NOT_CONFIGURED),
    ],
)
def test_a_wrong_account_id_is_named(path: str, type: ErrorType) -> None:
    assert hint(path, type) == BAD_ACCOUNT


def test_another_provider_of_the_gateway_is_named() -> None:
    assert hint(f"/v1/{ACCOUNT_ID}/gw/anthropic/v1/messages") == ANTHROPIC
    assert hint(f"/v1/{ACCOUNT_ID}/gw/openai/chat/completions").startswith("provider openai is")
    assert [provider_hint("workers-ai"), provider_hint("compat")] == ["", ""]


def test_an_error_may_have_a_hint_of_its_own() -> None:
    assert hint_of(http_scope("/"), WireError(BAD_INPUT, "x", hint="try y")) == "try y"


@pytest.mark.parametrize(
    ("path", "type"),
    [
        (f"{ACCOUNT}/{ACCOUNT_ID}/nothing", NO_ROUTE),
        (f"{ACCOUNT}/{ACCOUNT_ID}/ai/v1/audio/speech", NO_ROUTE),
        (f"{ACCOUNT}/{ACCOUNT_ID}/ai/v1/messages/count_tokens", NO_ROUTE),
        (f"/v1/{ACCOUNT_ID}/gw/compat/files", NO_ROUTE),
        ("/nothing", NO_ROUTE),
        ("/chat/completions", BAD_INPUT),
    ],
)
def test_other_requests_get_no_hint(path: str, type: ErrorType) -> None:
    assert hint(path, type) == ""
