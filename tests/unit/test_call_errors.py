"""Tests which errors without a request id are recorded: those about the call."""

from __future__ import annotations

from typing import Any

import pytest
from workers_ai_emulator.middleware.recordings.call_errors import is_call_error
from workers_ai_emulator.wire.envelope import failure, to_json
from workers_ai_emulator.wire.errors import (
    AUTHENTICATION_FAILED,
    GATEWAY_CREDITS_SPENT,
    GATEWAY_NOT_CONFIGURED,
    GATEWAY_UNAUTHORIZED,
    INVALID_ACCOUNT,
    MODEL_NOT_FOUND,
    NO_ROUTE,
    ErrorType,
    WireError,
    header_malformed,
)

LIMITED = {"code": 2003, "message": "Rate limited"}
PROVIDER = {"code": 2005, "message": "Failed to get response from provider"}


def anthropic(kind: str, message: str) -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "message": message}}


@pytest.mark.parametrize("is_bare", [False, True], ids=["API", "AI Gateway"])
@pytest.mark.parametrize("type", [MODEL_NOT_FOUND, GATEWAY_CREDITS_SPENT])
def test_the_errors_that_the_emulator_sends_in_both_forms_are_recorded(
    type: ErrorType, is_bare: bool
) -> None:
    error = WireError(type, "openai/gpt-x") if type is MODEL_NOT_FOUND else WireError(type)
    assert is_call_error(failure(error, "id", is_bare=is_bare))


@pytest.mark.parametrize(
    "body",
    [
        {"errors": [LIMITED], "success": False, "result": {}, "messages": []},
        {"success": False, "result": [], "messages": [], "error": [PROVIDER]},
        {"success": False, "error": [PROVIDER], "name": "AiGatewayError", "internalCode": 2005},
        {"success": False, "name": "AiGatewayError", "internalCode": 9999},
        anthropic("not_found_error", "Model not found: anthropic/x"),
        {"success": False, "errors": WireError(NO_ROUTE).entries, "messages": [], "result": None},
    ],
)
def test_an_error_about_the_call_is_recorded(body: dict[str, Any]) -> None:
    assert is_call_error(to_json(body))


@pytest.mark.parametrize("is_bare", [False, True])
@pytest.mark.parametrize(
    "error",
    [
        WireError(AUTHENTICATION_FAILED),
        WireError(INVALID_ACCOUNT, "/x"),
        WireError(GATEWAY_NOT_CONFIGURED),
        WireError(GATEWAY_UNAUTHORIZED),
        header_malformed(6111, "Authorization"),
    ],
)
def test_an_error_about_the_account_or_the_token_is_not_recorded(
    error: WireError, is_bare: bool
) -> None:
    assert not is_call_error(failure(error, "id", is_bare=is_bare))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<!DOCTYPE html><title>502: Bad gateway</title>",
        b"error code: 1015",
        b"[" * 100_000,
        b"null",
        to_json({"success": False, "errors": [], "error": []}),
        to_json({"success": False, "errors": ["x"]}),
        to_json({"success": False, "error": [], "name": "AiGatewayError", "internalCode": 2009}),
        to_json(anthropic("authentication_error", "invalid x-api-key")),
        to_json(anthropic("not_found_error", "Not found")),
    ],
)
def test_a_page_of_the_edge_or_another_error_is_not_recorded(body: bytes) -> None:
    assert not is_call_error(body)
