"""Tests that parts of Cloudflare's API that are not emulated say so in one sentence."""

from __future__ import annotations

import httpx
import pytest

from tests.server import ACCOUNT_ID, ServerProcess

pytestmark = pytest.mark.inferred


@pytest.mark.parametrize(
    ("method", "path", "name"),
    [
        ("POST", "/ai/tomarkdown", "ai/tomarkdown, which converts documents to Markdown"),
        ("GET", "/ai/tomarkdown/supported", "ai/tomarkdown, which converts documents to Markdown"),
        ("GET", "/ai/authors/search", "ai/authors/search, which lists the authors of models"),
        ("GET", "/ai/finetunes", "ai/finetunes, which has the LoRA adapters"),
        ("POST", "/ai/finetunes", "ai/finetunes, which has the LoRA adapters"),
        ("GET", "/ai/finetunes/public", "ai/finetunes, which has the LoRA adapters"),
        ("POST", "/ai/finetunes/1/finetune-assets", "ai/finetunes, which has the LoRA adapters"),
        ("GET", "/autorag/rags", "AutoRAG"),
        ("POST", "/autorag/rags/my-rag/ai-search", "AutoRAG"),
        ("GET", "/ai-search/instances", "AI Search"),
        ("POST", "/ai-search/instances/mine/search", "AI Search"),
        ("PUT", "/ai-search/instances/mine", "AI Search"),
        ("DELETE", "/ai-search/instances/mine", "AI Search"),
        ("GET", "/vectorize/v2/indexes", "Vectorize, the vector database"),
        ("POST", "/vectorize/v2/indexes/i/query", "Vectorize, the vector database"),
        ("GET", "/d1/database", "D1"),
        ("PUT", "/storage/kv/namespaces/n/values/k", "Workers KV"),
        ("GET", "/r2/buckets", "R2"),
        ("POST", "/browser-rendering/content", "Browser Rendering"),
        ("GET", "/ai-gateway/gateways", "AI Gateway's settings and logs"),
        ("POST", "/ai-gateway/gateways", "AI Gateway's settings and logs"),
        ("PUT", "/ai-gateway/gateways/gw", "AI Gateway's settings and logs"),
        ("GET", "/ai-gateway/gateways/gw/logs/1", "AI Gateway's settings and logs"),
        ("PATCH", "/ai-gateway/gateways/gw/logs/1", "AI Gateway's settings and logs"),
        ("DELETE", "/ai-gateway/gateways/gw/logs", "AI Gateway's settings and logs"),
    ],
)
def test_a_part_that_is_not_emulated_is_an_error_that_names_it(
    faulty: ServerProcess, method: str, path: str, name: str
) -> None:
    url = f"{faulty.base_url}/accounts/{ACCOUNT_ID}{path}"
    answer = httpx.request(method, url, headers={"authorization": "Bearer x"})
    [error] = answer.json()["errors"]
    assert (answer.status_code, error["code"]) == (405, 3906)
    assert error["message"] == f"The emulator does not have {name}"


@pytest.mark.parametrize("path", ["user", "memberships"])
def test_the_token_may_not_read_the_data_of_the_user(faulty: ServerProcess, path: str) -> None:
    answer = httpx.get(f"{faulty.base_url}/{path}", headers={"authorization": "Bearer x"})
    message = "Unauthorized to access requested resource"
    assert (answer.status_code, answer.json()["errors"]) == (
        403,
        [{"code": 9109, "message": message}],
    )


def test_a_mistyped_path_beside_them_is_still_an_unknown_path(faulty: ServerProcess) -> None:
    url = f"{faulty.base_url}/accounts/{ACCOUNT_ID}/ai-gatewayy/x"
    answer = httpx.get(url, headers={"authorization": "Bearer x"})
    assert answer.json()["errors"][0]["code"] == 7000
