"""Tests HTTP libraries and curl, which many programs use instead of an SDK."""

from __future__ import annotations

import json

import pytest

from tests.clients.client import Client, Outcomes, Way, assert_is_usage, value_of
from tests.server import ServerProcess

pytestmark = pytest.mark.documented

CLIENTS = [
    Client("plain_python.py requests", "requests==2.34.2"),
    Client("plain_python.py httpx", "httpx==0.28.1"),
    Client("plain_python.py httpx_async", "httpx==0.28.1"),
    Client("plain_python.py aiohttp", "aiohttp==3.14.5"),
    Client("plain_python.py urllib"),
    Client("plain_python.py curl"),
    Client("plain_node.mjs fetch"),
    Client("plain_node.mjs https"),
]


@pytest.fixture(scope="module")
def outcomes(client: Client, way: Way, server: ServerProcess) -> Outcomes:
    return client.run(server.base_url, "chat", "stream", "unknown_model", way=way)


def test_a_chat_gets_a_completion(outcomes: Outcomes) -> None:
    answer = value_of(outcomes["chat"])
    result = json.loads("\n".join(answer["lines"]))["result"]
    assert answer["status"] == 200
    assert result["response"].strip()
    assert_is_usage(result["usage"])


def test_a_stream_has_the_text_of_the_json_response(outcomes: Outcomes) -> None:
    answer = value_of(outcomes["stream"])
    *events, end = [line.removeprefix("data: ") for line in answer["lines"] if line]
    whole = json.loads("\n".join(value_of(outcomes["chat"])["lines"]))["result"]
    assert (answer["status"], end) == (200, "[DONE]")
    assert "".join(json.loads(event)["response"] for event in events) == whole["response"]


def test_an_unknown_model_is_a_bad_request(outcomes: Outcomes) -> None:
    answer = value_of(outcomes["unknown_model"])
    (error,) = json.loads("\n".join(answer["lines"]))["errors"]
    assert (answer["status"], error["code"]) == (400, 7000)
