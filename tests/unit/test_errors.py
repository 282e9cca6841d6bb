"""Tests the errors that clients receive: their texts, and which engine errors cause them."""

from __future__ import annotations

import json
import logging
from string import Formatter
from typing import Literal

import pytest
from workers_ai_emulator.backends.openai_api import UpstreamFailed
from workers_ai_emulator.engine.errors import (
    CapacityExceeded,
    ContextTooLong,
    DeadlineExceeded,
    EngineClosed,
    EngineError,
    GrammarFailed,
    Interrupted,
    RequestRejected,
    TextsTooLong,
    TextTooLong,
)
from workers_ai_emulator.errors import WeightsUnusable
from workers_ai_emulator.wire.errors import (
    BAD_INPUT,
    CONTEXT_EXCEEDED,
    CONTROL_INVALID,
    INTERNAL_ERROR,
    INVALID_ACCOUNT,
    JSON_MODE_UNMET,
    MODEL_NOT_FOUND,
    NO_ROUTE,
    OUT_OF_CAPACITY,
    REFUSED_BY_ENGINE,
    REQUEST_ABORTED,
    REQUEST_TIMEOUT,
    RETIRED,
    TEXT_TOO_LONG,
    ContextCheck,
    ErrorType,
    Sender,
    WireError,
    control_invalid,
    error_types,
    header_malformed,
    no_route_in_account,
    refused_by_engine,
    wire_error,
    wire_errors,
)
from workers_ai_emulator.wire.responses import error_response

ROWS = error_types(*Sender)
ENGINE_ERRORS: list[tuple[EngineError, ErrorType]] = [
    (ContextTooLong(600, 512), CONTEXT_EXCEEDED),
    (CapacityExceeded(), OUT_OF_CAPACITY),
    (TextTooLong(9003, 8192), TEXT_TOO_LONG),
    (TextsTooLong(80_030, 60_000), TEXT_TOO_LONG),
    (DeadlineExceeded(), REQUEST_TIMEOUT),
    (EngineClosed(), REQUEST_ABORTED),
    (GrammarFailed("too many states"), JSON_MODE_UNMET),
    (RequestRejected("no such role"), REFUSED_BY_ENGINE),
    (Interrupted(), INTERNAL_ERROR),
    (UpstreamFailed("down"), INTERNAL_ERROR),
    (EngineError("broken"), INTERNAL_ERROR),
]


def values_for(row: ErrorType) -> list[str]:
    """Returns a value for each replacement field in the text of the error."""
    names = [name for _, name, _, _ in Formatter().parse(row.text) if name is not None]
    num_gaps = names.count("") or len(set(names))
    return [f"<{number}>" for number in range(num_gaps)]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.sender.name}-{row.code}")
def test_every_row_is_complete_and_its_text_has_a_value_in_every_gap(row: ErrorType) -> None:
    values = values_for(row)
    text = str(WireError(row, *values))
    assert text and all(value in text for value in values)
    assert "{" not in text and "}" not in text
    assert 400 <= row.status < 600 and row.code > 0
    assert row.summary.endswith((".", "]"))


def test_every_sender_has_rows_and_no_two_rows_of_a_sender_have_one_code() -> None:
    for sender in Sender:
        codes = [row.code for row in error_types(sender)]
        assert codes and len(set(codes)) == len(codes)


def test_an_error_has_its_code_and_text_as_its_only_entry() -> None:
    error = WireError(INVALID_ACCOUNT, "/accounts/x")
    text = "Could not route to /accounts/x, perhaps your object identifier is invalid?"
    assert error.entries == [{"code": 7003, "message": text}]


def test_a_message_of_workers_ai_has_the_kind_before_the_text() -> None:
    assert WireError(BAD_INPUT, "x").message == "AiError: Bad input: Error: x"
    assert WireError(INTERNAL_ERROR).message == "AiError: Internal server error"
    retired = WireError(RETIRED, "@cf/x/y", "2026-05-30").message
    assert retired.startswith("AiError: Model has been deprecated: @cf/x/y was deprecated on ")


@pytest.mark.parametrize(
    ("error", "row"), ENGINE_ERRORS, ids=[type(error).__name__ for error, _ in ENGINE_ERRORS]
)
def test_each_error_of_the_engine_becomes_an_error_of_the_service(
    error: EngineError, row: ErrorType
) -> None:
    assert wire_error(error).type is row


def test_no_class_of_engine_errors_is_missing_above() -> None:
    tested = {type(error) for error, _ in ENGINE_ERRORS}
    assert set(EngineError.__subclasses__()) | {EngineError, TextsTooLong} == tested


def test_a_context_error_has_both_numbers() -> None:
    text = str(wire_error(ContextTooLong(600, 512)))
    assert "(600)" in text and "(512)" in text


@pytest.mark.recorded
def test_sglang_refuses_what_does_not_fit_the_context_itself() -> None:
    error = ContextTooLong(263_925, 262_144, 64_000)
    refused = wire_error(error, ContextCheck("sglang", lambda: 0))
    assert (refused.type.status, refused.type.code) == (400, 8007)
    assert refused.message == (
        'AiError: AiError: {"object":"error","message":"Requested token count exceeds the model\'s '
        "maximum context length of 262144 tokens. You requested a total of 263925 tokens: 199925 "
        "tokens from the input messages and 64000 tokens for the completion. Please reduce the "
        "number of tokens in the input messages or the completion to fit within the limit."
        '","type":"BadRequestError","param":null,"code":400}'
    )


@pytest.mark.recorded
@pytest.mark.parametrize(("max_tokens", "is_too_large"), [(256_000, False), (262_144, True)])
def test_sglang_names_max_tokens_if_it_alone_exceeds_the_context(
    max_tokens: int, is_too_large: bool
) -> None:
    error = ContextTooLong(max_tokens + 5, 256_000, max_tokens)
    check = ContextCheck("sglang", lambda: 0, counts_max_tokens=False)
    reason = json.loads(str(wire_error(error, check)))["message"]
    assert reason.startswith("Requested token count exceeds") is not is_too_large
    if is_too_large:
        assert reason == (
            "max_completion_tokens is too large: 262144. This model supports at most 256000 "
            "completion tokens."
        )
    assert wire_error(error).type is CONTEXT_EXCEEDED


@pytest.mark.recorded
@pytest.mark.parametrize(
    ("max_tokens", "num_prompt_tokens"), [(4096, 19905), (2048, 21953), (8192, 15809), (256, 23745)]
)
def test_vllm_counts_the_prompt_up_to_the_first_token_that_is_too_many(
    max_tokens: int, num_prompt_tokens: int
) -> None:
    error = ContextTooLong(90_000, 24_000, max_tokens)
    refused = wire_error(error, ContextCheck("vllm", lambda: 15_000))
    assert (refused.type.status, refused.type.code) == (400, 8007)
    assert refused.message == (
        'AiError: AiError: {"error":{"message":"This model\'s maximum context length is 24000 '
        f"tokens. However, you requested {max_tokens} output tokens and your prompt contains at "
        f"least {num_prompt_tokens} input tokens, for a total of at least 24001 tokens. Please "
        "reduce the length of the input prompt or the number of requested output tokens. "
        f'(parameter=input_tokens, value={num_prompt_tokens})","type":"BadRequestError",'
        '"param":"input_tokens","code":400}}'
    )


@pytest.mark.recorded
@pytest.mark.parametrize("server", ["vllm", "sglang"])
def test_a_request_whose_estimated_tokens_do_not_fit_is_refused_before_the_server(
    server: Literal["vllm", "sglang"],
) -> None:
    error = ContextTooLong(30_000, 24_000, 256)
    estimated = ContextCheck(server, lambda: 24_293)
    assert str(wire_error(error, estimated)) == (
        "The estimated number of input and maximum output tokens (24549) exceeded this model "
        "context window limit (24000)."
    )
    assert wire_error(error, ContextCheck(server, lambda: 23_744)).type is REFUSED_BY_ENGINE


def test_a_maximum_that_alone_exceeds_the_context_of_vllm_is_the_error_of_the_service() -> None:
    check = ContextCheck("vllm", lambda: 0, counts_max_tokens=False)
    refused = wire_error(ContextTooLong(24_010, 24_000, 24_000), check)
    assert refused.type is CONTEXT_EXCEEDED and "(24010)" in str(refused)


def test_unusable_weights_are_an_internal_error() -> None:
    assert wire_error(WeightsUnusable("missing")).type is INTERNAL_ERROR


def test_the_text_of_a_refusal_by_the_engine_is_the_engines_json() -> None:
    body = json.loads(str(refused_by_engine('a "quoted" reason')))
    assert body == {
        "object": "error",
        "message": 'a "quoted" reason',
        "type": "BadRequestError",
        "param": None,
        "code": 400,
    }


def test_an_unknown_path_below_a_malformed_account_has_two_entries() -> None:
    error = no_route_in_account("/accounts/x/y")
    assert error.type is NO_ROUTE
    assert [entry["code"] for entry in error.entries] == [7003, 7000]


def test_a_malformed_header_has_its_reason_in_an_error_chain() -> None:
    (entry,) = header_malformed(6111, "Authorization").entries
    chain = [{"code": 6111, "message": "Invalid format for Authorization header"}]
    assert (entry["code"], entry["error_chain"]) == (6003, chain)


def test_an_invalid_body_has_one_entry_per_mistake() -> None:
    error = control_invalid(["first", "second"])
    assert error.type is CONTROL_INVALID
    assert [entry["message"] for entry in error.entries] == ["first", "second"]


@pytest.mark.parametrize(
    ("error", "lines"),
    [
        (CapacityExceeded(), []),
        (EngineError("out of memory"), [(logging.ERROR, "EngineError: out of memory")]),
        (
            GrammarFailed("too many states"),
            [(logging.WARNING, "a completion cannot follow its JSON schema: too many states")],
        ),
    ],
)
def test_errors_whose_cause_the_client_does_not_see_are_logged(
    caplog: pytest.LogCaptureFixture, error: EngineError, lines: list[tuple[int, str]]
) -> None:
    with caplog.at_level(logging.INFO), pytest.raises(WireError) as caught, wire_errors():
        raise error
    assert caught.value.__cause__ is error
    assert [(record.levelno, record.message) for record in caplog.records] == lines
    assert not any(record.exc_info for record in caplog.records)


@pytest.mark.recorded
def test_errors_of_the_messages_api_have_anthropics_form() -> None:
    path = f"/client/v4/accounts/{'0' * 32}/ai/v1/messages"
    unknown = error_response(path, WireError(MODEL_NOT_FOUND, "anthropic/claude"))
    assert unknown.status_code == 404
    assert json.loads(bytes(unknown.body)) == {
        "type": "error",
        "error": {"type": "not_found_error", "message": "Model not found: anthropic/claude"},
    }
    busy = json.loads(bytes(error_response(path, WireError(OUT_OF_CAPACITY)).body))
    assert busy["error"]["type"] == "rate_limit_error"
    assert busy["error"]["message"].startswith("AiError: Capacity temporarily exceeded")
