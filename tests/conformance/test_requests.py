"""Tests that requests with unusual headers or additional keys, as clients send them, succeed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.server import ServerProcess

pytestmark = pytest.mark.documented

BODY = {"prompt": "Hi", "max_tokens": 1}


def send(
    server: ServerProcess, content: Any, headers: dict[str, str] | None = None
) -> httpx.Response:
    return httpx.post(server.run_url(), content=content, headers=headers, timeout=60)


@pytest.mark.parametrize(
    "content_type",
    [
        "application/x-www-form-urlencoded",  # from curl and urllib
        "text/plain;charset=UTF-8",  # from `fetch`
        "apbplication/json",  # from litellm 1.72
        "multipart/form-data",
        "",
    ],
)
def test_the_content_type_does_not_matter(server: ServerProcess, content_type: str) -> None:
    headers = {"content-type": content_type} if content_type else {}
    assert send(server, json.dumps(BODY), headers).status_code == 200


def test_a_body_may_be_sent_in_chunks_of_one_byte(server: ServerProcess) -> None:
    def chunks() -> Iterator[bytes]:
        for byte in json.dumps(BODY | {"prompt": "Grüße 😀"}, ensure_ascii=False).encode():
            yield bytes([byte])

    assert send(server, chunks()).status_code == 200


def test_a_body_may_be_indented(server: ServerProcess) -> None:
    assert send(server, json.dumps(BODY, indent=2)).status_code == 200


@pytest.mark.parametrize(
    "extra",
    [
        {"stop": None},  # from langchain-cloudflare
        {"stop": ["\n"]},
        {"model": "@cf/meta/llama-2-7b-chat-int8"},
        {"options": {"rejectIfBusy": True}},
        {"stream": False},
        {"stream_options": {"include_usage": True}},
        {"temperature": 0},  # from ai 4
        {"temperature": 1e-8},
    ],
    ids=json.dumps,
)
def test_keys_that_clients_add_are_accepted(server: ServerProcess, extra: dict[str, Any]) -> None:
    response = send(server, json.dumps(BODY | extra))
    assert list(response.json()["result"]) == ["response", "usage"]


def test_headers_that_clients_add_are_accepted(server: ServerProcess) -> None:
    headers = {
        "x-stainless-lang": "python",
        "api-version": "2026-11-25",
        "x-session-affinity": "a",
        "cf-aig-authorization": "Bearer x",
        "accept": "text/html",
    }
    response = send(server, json.dumps(BODY), headers)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
