"""Tests the cache of AI Gateway, and the headers of the errors of its limits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.server import ACCOUNT_ID, INT8, ServerProcess, server_process

pytestmark = pytest.mark.documented

CHAT = {"model": INT8, "messages": [{"role": "user", "content": "Hi"}]}
GATEWAY = f"/v1/{ACCOUNT_ID}/gw"
CHAT_PATH = f"{GATEWAY}/workers-ai/v1/chat/completions"
# Answers that differ from call to call, so that a repeated answer comes from the cache.
SCRIPT = [{"answers": [f"Answer {number}." for number in range(1, 9)]}]
TTL = {"cf-aig-cache-ttl": "60"}


@pytest.fixture(scope="module")
def scripted() -> Iterator[ServerProcess]:
    with server_process("--backend", "scripted") as running:
        yield running


@pytest.fixture
def server(scripted: ServerProcess) -> ServerProcess:
    httpx.post(f"{scripted.root}/_emulator/reset").raise_for_status()
    httpx.post(f"{scripted.root}/_emulator/script", json=SCRIPT).raise_for_status()
    return scripted


def call(
    server: ServerProcess, path: str = CHAT_PATH, body: Any = CHAT, **headers: str
) -> tuple[str | None, str]:
    """Returns the status of the cache, and the number of the answer."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    response = httpx.post(server.root + path, json=body, headers=names)
    assert response.status_code == 200, response.text
    assert len(response.headers["cf-aig-log-id"]) == 26
    number = response.text.partition("Answer ")[2][:1]
    return response.headers.get("cf-aig-cache-status"), number


def test_a_response_is_repeated_if_the_request_asks_for_the_cache(server: ServerProcess) -> None:
    first, second = (call(server, **TTL) for _ in range(2))
    assert [first, second] == [("MISS", "1"), ("HIT", "1")]
    other = {**CHAT, "max_tokens": 8}
    assert call(server, body=other, **TTL) == ("MISS", "2")
    assert call(server) == ("MISS", "3")


@pytest.mark.recorded
def test_a_time_of_zero_does_not_bypass_the_cache_but_skipping_does(server: ServerProcess) -> None:
    zero = {"cf-aig-cache-ttl": "0"}
    assert [call(server, **zero) for _ in range(2)] == [("MISS", "1"), ("HIT", "1")]
    assert call(server, **zero, **{"cf-aig-skip-cache": "true"}) == ("MISS", "2")


def test_a_key_of_ones_own_replaces_the_content_of_the_request(server: ServerProcess) -> None:
    key = {"cf-aig-cache-key": "greeting"}
    assert call(server, **key) == ("MISS", "1")
    assert call(server, body={**CHAT, "max_tokens": 8}, **key) == ("HIT", "1")


@pytest.mark.parametrize("option", [{"cacheTtl": 60}, {"cacheKey": "greeting"}])
def test_a_binding_has_the_same_options(server: ServerProcess, option: dict[str, Any]) -> None:
    path, model = "/ai-gateway/run?version=3", {"cf-consn-model-id": INT8}
    body = {"inputs": {"prompt": "Hi"}, "options": {"gateway": {"id": "gw", **option}}}
    assert [call(server, path, body, **model) for _ in range(2)] == [("MISS", "1"), ("HIT", "1")]
    body["options"]["gateway"]["skipCache"] = True  # type: ignore[index]
    assert call(server, path, body, **model) == ("MISS", "2")


def test_a_step_of_a_universal_call_has_the_same_headers(server: ServerProcess) -> None:
    step = {"provider": "workers-ai", "endpoint": INT8, "query": {"prompt": "Hi"}, "headers": TTL}
    assert [call(server, GATEWAY, [step]) for _ in range(2)] == [("MISS", "1"), ("HIT", "1")]


@pytest.mark.parametrize("headers", [1, None, [], {"cf-aig-cache-ttl": None}])
def test_a_step_with_malformed_headers_is_run(server: ServerProcess, headers: Any) -> None:
    step = {"provider": "workers-ai", "endpoint": INT8, "query": {"prompt": "Hi"}}
    assert call(server, GATEWAY, [step | {"headers": headers}]) == ("MISS", "1")


@pytest.mark.inferred
def test_streams_and_errors_are_not_cached(server: ServerProcess) -> None:
    stream = {**CHAT, "stream": True}
    assert [call(server, body=stream, **TTL)[0] for _ in range(2)] == ["MISS", "MISS"]
    wrong = {**CHAT, "messages": 1}
    for _ in range(2):
        response = httpx.post(server.root + CHAT_PATH, json=wrong, headers=TTL)
        assert response.json()["internalCode"] == 5006


@pytest.mark.inferred
def test_a_reset_empties_the_cache(server: ServerProcess) -> None:
    call(server, **TTL)
    httpx.post(f"{server.root}/_emulator/reset").raise_for_status()
    assert call(server, **TTL)[0] == "MISS"


@pytest.mark.recorded
def test_a_spend_limit_has_the_headers_of_the_gateway(server: ServerProcess) -> None:
    limit, credits = (
        httpx.post(server.root + CHAT_PATH, json=CHAT, headers={"x-emulator-fault": fault})
        for fault in ("gateway-spend-limit", "gateway-credits")
    )
    names = {"cf-aig-event-id", "cf-aig-log-id", "cf-aig-request-id", "cf-aig-step"}
    assert names <= limit.headers.keys()
    assert "retry-after" not in limit.headers
    assert not names & credits.headers.keys()  # `env.AI.aiGatewayLogId` is null after a 402
