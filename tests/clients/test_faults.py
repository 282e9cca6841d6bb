"""Tests how two clients react to each fault (an error that the emulator sends on demand).

The tests request each fault in five ways, for example by a rule or by a header.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.clients.client import Client, Outcome, Outcomes, value_of
from tests.server import ServerProcess

pytestmark = pytest.mark.documented

CLOUDFLARE = Client("faults_python.py cloudflare", "cloudflare==5.9.0")
REQUESTS = Client("faults_python.py requests", "requests==2.34.2")
CLIENTS = [CLOUDFLARE, REQUESTS]
WAYS = ["by_count", "by_chance", "by_header", "by_token", "until_the_reset"]

# For each fault: the exception of the client `cloudflare`, the HTTP status and the error code.
ERRORS = {
    "capacity": ("RateLimitError", 429, 3040),
    "rate-limit": ("RateLimitError", 429, 3021),
    "daily-limit": ("RateLimitError", 429, 4006),
    "account-limited": ("RateLimitError", 429, 3036),
    "paid-plan": ("PermissionDeniedError", 403, 5035),
    "timeout": ("APIStatusError", 408, 3046),
    "aborted": ("APIStatusError", 408, 3008),
    "retired": ("APIStatusError", 410, 5028),
    "auth": ("AuthenticationError", 401, 10000),
    "internal": ("InternalServerError", 500, 3043),
    "error": ("InternalServerError", 500, 3043),
}
# For each fault: the exceptions of `cloudflare` and of `requests` for a call without a stream.
NETWORK = {
    "reset": ("APIConnectionError", "ConnectionError"),
    "edge-error": ("InternalServerError", "JSONDecodeError"),
    "broken-json": ("JSONDecodeError", "JSONDecodeError"),
    "cut-body": ("APIConnectionError", "ChunkedEncodingError"),
}
# For each fault: the exceptions with which a stream ends in `cloudflare` and in `requests`.
BREAKS = {
    "cut-mid-event": ("RemoteProtocolError", "ChunkedEncodingError"),
    "cut-mid-utf8": ("RemoteProtocolError", "ChunkedEncodingError"),
    "stall": ("ReadTimeout", "ConnectionError"),
}
ENDS = {"no-done": 0, "double-done": 2}
JSON, SLOW = "json-instead-of-stream", "slow-first-token"
DONE = "data: [DONE]\n\n"
ANSWER = "This is a scripted answer to: Hi"


@pytest.fixture(scope="module")
def outcomes(client: Client, scripted_server: ServerProcess) -> Outcomes:
    of_streams = [f"{fault}:stream" for fault in (*BREAKS, *ENDS, JSON, SLOW)]
    return client.run(scripted_server.base_url, *ERRORS, *NETWORK, *of_streams)


@pytest.fixture(scope="module")
def retries(scripted_server: ServerProcess) -> Any:
    CLOUDFLARE.install()
    return value_of(CLOUDFLARE.run(scripted_server.base_url, "retries")["retries"])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("fault", ERRORS)
def test_the_client_reports_the_error_and_the_next_call_succeeds(
    client: Client, outcomes: Outcomes, fault: str, way: str
) -> None:
    name, status, code = ERRORS[fault]
    faulty, sound = both(outcomes, fault, way)
    if client is CLOUDFLARE:
        assert (faulty["error"], faulty["status"]) == (name, status)
        assert faulty["errors"][0]["code"] == code
        assert value_of(sound)["response"] == ANSWER
    else:
        assert value_of(faulty)["status"] == status
        assert value_of(faulty)["body"]["errors"][0]["code"] == code
        assert value_of(sound)["body"]["result"]["response"] == ANSWER


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("fault", NETWORK)
def test_the_client_raises_an_exception_for_a_fault_of_the_network(
    client: Client, outcomes: Outcomes, fault: str, way: str
) -> None:
    faulty, sound = both(outcomes, fault, way)
    assert faulty["error"] == NETWORK[fault][CLIENTS.index(client)]
    assert "value" in sound


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("fault", BREAKS)
def test_a_broken_stream_keeps_its_first_events_and_raises(
    client: Client, outcomes: Outcomes, fault: str, way: str
) -> None:
    faulty, sound = streams(outcomes, fault, way)
    assert faulty["end"] == BREAKS[fault][CLIENTS.index(client)]
    whole = sound["text"].split("\n\n")
    *events, rest = faulty["text"].split("\n\n")
    assert events == whole[: len(events)] and len(events) == (2 if fault == "cut-mid-event" else 1)
    if fault == "cut-mid-event":
        assert 0 < len(rest) < len(whole[2]) and whole[2].startswith(rest)
    else:
        assert rest == {"cut-mid-utf8": 'data: {"response":"\xf0', "stall": ""}[fault]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("fault", ENDS)
def test_a_stream_ends_without_done_or_with_two_of_them(
    outcomes: Outcomes, fault: str, way: str
) -> None:
    faulty, sound = streams(outcomes, fault, way)
    assert faulty["end"] is None
    assert faulty["text"] == sound["text"].removesuffix(DONE) + ENDS[fault] * DONE


@pytest.mark.parametrize("way", WAYS)
def test_a_stream_request_gets_json(outcomes: Outcomes, way: str) -> None:
    faulty, _ = streams(outcomes, JSON, way)
    assert json.loads(faulty["text"])["result"]["response"] == ANSWER


@pytest.mark.parametrize("way", WAYS)
def test_the_client_times_out_on_a_slow_first_token(
    client: Client, outcomes: Outcomes, way: str
) -> None:
    faulty, sound = both(outcomes, f"{SLOW}:stream", way)
    assert faulty["error"] == ("APITimeoutError" if client is CLOUDFLARE else "ReadTimeout")
    assert value_of(sound)["text"].endswith(DONE)


@pytest.mark.parametrize("case", ["capacity 1", "timeout 2"])
def test_the_sdk_retries_an_error_that_occurs_once_or_twice(retries: Any, case: str) -> None:
    assert value_of(retries[case]["outcome"])["response"] == ANSWER
    assert retries[case]["left"] == []


def test_the_sdk_raises_an_error_that_occurs_three_times(retries: Any) -> None:
    result = retries["rate-limit 3"]
    assert (result["outcome"]["error"], result["left"]) == ("RateLimitError", [])


@pytest.mark.parametrize("fault", ["retired", "auth"])
def test_the_sdk_raises_a_permanent_error_at_once(retries: Any, fault: str) -> None:
    result = retries[f"{fault} 2"]
    assert result["outcome"]["error"] == ERRORS[fault][0]
    assert result["left"] == [{"fault": fault, "times": 1}]


def both(outcomes: Outcomes, case: str, way: str) -> tuple[Outcome, Outcome]:
    outcome = value_of(outcomes[f"{case} {way}"])
    return outcome["faulty"], outcome["sound"]


def streams(outcomes: Outcomes, fault: str, way: str) -> tuple[Any, Any]:
    faulty, sound = map(value_of, both(outcomes, f"{fault}:stream", way))
    assert sound["end"] is None and sound["text"].endswith(DONE)
    return faulty, sound
