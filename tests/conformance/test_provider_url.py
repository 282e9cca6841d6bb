"""Tests the base URLs of AI Gateway's providers, which Cloudflare's SDK requests."""

from __future__ import annotations

import httpx
import pytest

from tests.server import ACCOUNT_ID, INT8, ServerProcess

PATH = f"/client/v4/accounts/{ACCOUNT_ID}/ai-gateway/gateways/gw/url"
HEADERS = {"authorization": "Bearer x"}


def url_of(root: str, provider: str = "workers-ai", **headers: str) -> str:
    answer = httpx.get(f"{root}{PATH}/{provider}", headers=HEADERS | headers)
    url: str = answer.raise_for_status().json()["result"]
    return url


@pytest.mark.documented
def test_a_model_runs_under_the_url(server: ServerProcess) -> None:
    url = f"{url_of(server.root)}/{INT8}"
    assert url == f"{server.root}/v1/{ACCOUNT_ID}/gw/workers-ai/{INT8}"
    answer = httpx.post(url, json={"prompt": "Hi", "max_tokens": 4}, headers=HEADERS, timeout=120)
    assert answer.status_code == 200


@pytest.mark.inferred
def test_the_url_has_the_host_and_the_account_of_the_request(server: ServerProcess) -> None:
    port = httpx.URL(server.root).port
    url = url_of(server.root, host=f"localhost:{port}")
    assert url == f"http://localhost:{port}/v1/{ACCOUNT_ID}/gw/workers-ai"
    assert url_of(server.root, host="api.cloudflare.com").startswith(f"{server.root}/v1/")
    account = 16 * "5b"
    url = url_of(f"{server.root}/_emulator/accounts/{account}", "universal")
    assert url == f"{server.root}/v1/{account}/gw/"


@pytest.mark.inferred
def test_other_methods_are_refused_with_the_allowed_method(server: ServerProcess) -> None:
    for method in ("POST", "PATCH", "DELETE", "PUT"):
        answer = httpx.request(method, f"{server.root}{PATH}/workers-ai", headers=HEADERS)
        assert (answer.status_code, answer.json()["errors"][0]["code"]) == (405, 7001)
        assert answer.headers["allow"] == "GET"
