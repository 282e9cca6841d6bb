"""Tests the cache of AI Gateway, and the headers of the errors of its limits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from workers_ai_emulator.wire.body import GZIP_MAGIC

from tests.server import ACCOUNT_ID, INT8, ServerProcess, server_process, wait_until

pytestmark = pytest.mark.documented

BGE = "@cf/baai/bge-small-en-v1.5"
LLAMA = "@cf/meta/llama-3.3-70b-instruct-fp8-fast"  # a model with batches
CHAT = {"model": INT8, "messages": [{"role": "user", "content": "Hi"}]}
GATEWAY = f"/v1/{ACCOUNT_ID}/gw"
CHAT_PATH = f"{GATEWAY}/workers-ai/v1/chat/completions"
# Answers that differ from call to call, so that a repeated answer comes from the cache.
SCRIPT = {"answers": [f"Answer {number}." for number in range(1, 9)]}
TTL = {"cf-aig-cache-ttl": "60"}
KEY = {"cf-aig-cache-key": "batch"}


@pytest.fixture
def server(scripted: ServerProcess) -> ServerProcess:
    scripted.set_script(SCRIPT)
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


def test_backends_do_not_share_responses(server: ServerProcess) -> None:
    backend = {"x-emulator-backend": "scripted"}
    assert [call(server, **TTL), call(server, **TTL, **backend)] == [("MISS", "1"), ("MISS", "2")]
    assert call(server, **TTL, **backend) == ("HIT", "2")


def test_a_key_of_ones_own_is_not_shared_by_gateways_and_endpoints(server: ServerProcess) -> None:
    key = {"cf-aig-cache-key": "greeting"}
    assert call(server, **key) == ("MISS", "1")
    assert call(server, CHAT_PATH.replace("/gw/", "/other/"), **key) == ("MISS", "2")
    path = f"{GATEWAY}/workers-ai/{INT8}"
    assert call(server, path, {"prompt": "Hi"}, **key) == ("MISS", "3")
    step = {"provider": "workers-ai", "endpoint": INT8, "query": {"prompt": "Hi"}}
    assert call(server, GATEWAY, [step], **key) == ("MISS", "4")
    other = {**step, "endpoint": f"run/{INT8}"}
    assert call(server, GATEWAY, [other], **key) == ("MISS", "5")
    assert call(server, **key) == ("HIT", "1")


def test_a_key_in_a_binding_belongs_to_its_gateway_its_model_and_its_version(
    server: ServerProcess,
) -> None:
    def run(gateway: str = "gw", model: str = INT8, version: int = 3) -> tuple[str | None, str]:
        options = {"gateway": {"id": gateway, "cacheKey": "greeting"}}
        body = {"inputs": {"prompt": "Hi"}, "options": options}
        headers = {"cf-consn-model-id": model, "cf-consn-sdk-version": "2.0.0"}
        return call(server, f"/ai-gateway/run?version={version}", body, **headers)

    assert run() == ("MISS", "1")
    assert run(gateway="other") == ("MISS", "2")
    assert run(model=LLAMA) == ("MISS", "3")
    assert run(version=2) == ("MISS", "4")
    assert run() == ("HIT", "1")


@pytest.mark.inferred
def test_json_that_replaces_a_stream_is_not_cached(server: ServerProcess) -> None:
    fault = {"fault": "json-instead-of-stream", "answer": "Answer 1."}
    server.set_script({"answers": [fault, "Answer 2."]})
    path, body = f"{GATEWAY}/workers-ai/{INT8}", {"prompt": "Hi", "stream": True}
    assert call(server, path, body, **TTL) == ("MISS", "1")
    assert call(server, path, body, **TTL)[0] == "MISS"


def test_the_versions_of_a_binding_do_not_share_responses(server: ServerProcess) -> None:
    body = {"inputs": {"prompt": "Hi"}, "options": {"gateway": {"id": "gw", "cacheTtl": 60}}}
    for version in (3, 2):
        path, headers = f"/ai-gateway/run?version={version}", {"cf-consn-model-id": INT8}
        response = httpx.post(server.root + path, json=body, headers=headers)
        assert response.headers["cf-aig-cache-status"] == "MISS"
        assert response.content.startswith(b"{" if version == 3 else GZIP_MAGIC)


def test_the_sdk_and_workerd_do_not_share_responses_of_version_2(server: ServerProcess) -> None:
    body = {"inputs": {"prompt": "Hi"}, "options": {"gateway": {"id": "gw", "cacheTtl": 60}}}
    for sdk_version in ("1.1.0", "2.0.0"):
        headers = {"cf-consn-model-id": INT8, "cf-consn-sdk-version": sdk_version}
        url = f"{server.root}/ai-gateway/run?version=2"
        response = httpx.post(url, json=body, headers=headers)
        assert response.headers["cf-aig-cache-status"] == "MISS"
        assert response.content.startswith(GZIP_MAGIC if sdk_version == "1.1.0" else b"{")


@pytest.mark.inferred
@pytest.mark.parametrize("form", ["path", "universal", "binding"])
def test_calls_of_a_batch_are_never_cached(server: ServerProcess, form: str) -> None:
    def send(inputs: Any) -> Any:
        path, body, headers = f"{GATEWAY}/workers-ai/{LLAMA}?queueRequest=true", inputs, {**KEY}
        if form == "universal":
            path = f"{GATEWAY}?queueRequest=true"
            body = [{"provider": "workers-ai", "endpoint": LLAMA, "query": inputs}]
        if form == "binding":
            path, headers = "/ai-gateway/run?version=3", {"cf-consn-model-id": LLAMA}
            options = {"queueRequest": True, "gateway": {"id": "gw", "cacheKey": "batch"}}
            body = {"inputs": inputs, "options": options}
        response = httpx.post(server.root + path, json=body, headers=headers)
        assert response.headers["cf-aig-cache-status"] == "MISS", response.text
        value = response.json()
        return value.get("result", value)

    server.set_script({"answer": "Later.", "delay": 1})
    request_ids: list[str] = []

    def is_polled_before_its_end() -> bool:
        queued = send({"requests": [{"prompt": "one"}]})
        assert queued["status"] == "queued"
        request_ids.append(queued["request_id"])
        return send({"request_id": request_ids[-1]}).get("status") in ("queued", "running")

    wait_until(is_polled_before_its_end)  # on a busy machine, the first poll may be too late
    wait_until(lambda: "responses" in send({"request_id": request_ids[-1]}), limit_s=30)


@pytest.mark.parametrize("ttl", [10**350, -(10**350)], ids=["large", "small"])
def test_a_step_with_an_extreme_time_is_run(server: ServerProcess, ttl: int) -> None:
    step = {"provider": "workers-ai", "endpoint": INT8, "query": {"prompt": "Hi"}}
    assert call(server, GATEWAY, [step | {"headers": {"cf-aig-cache-ttl": ttl}}])[1] == "1"


@pytest.mark.inferred
@pytest.mark.parametrize(("num_steps", "code"), [(100, 5007), (101, 3003), (100_000, 3003)])
def test_the_number_of_steps_is_limited(server: ServerProcess, num_steps: int, code: int) -> None:
    step = {"provider": "openai", "endpoint": "x"}
    response = httpx.post(server.root + GATEWAY, json=[step] * num_steps)
    assert response.json()["internalCode"] == code
    assert (f"at most 100 requests, not {num_steps}" in response.text) is (num_steps > 100)


@pytest.mark.inferred
def test_the_fault_of_a_failed_step_is_not_that_of_the_response(server: ServerProcess) -> None:
    failing = {"contains": "fail", "fault": "internal"}
    server.set_script(failing, {"contains": "Hi", "answer": "Answer 1."})
    steps = [
        {"provider": "workers-ai", "endpoint": INT8, "query": {"prompt": prompt}}
        for prompt in ("fail", "Hi")
    ]
    response = httpx.post(server.root + GATEWAY, json=steps)
    assert (response.status_code, response.headers["cf-aig-step"]) == (200, "1")
    assert "x-emulator-fault" not in response.headers
    line = f"{GATEWAY} 200, model {INT8}, rule 2,"
    wait_until(lambda: any(line in each for each in server.log))
    cached = [steps[0], {**steps[1], "headers": TTL}]
    for _ in range(2):
        response = httpx.post(server.root + GATEWAY, json=cached)
        assert "x-emulator-fault" not in response.headers
    assert response.headers["cf-aig-cache-status"] == "HIT"
    failed = httpx.post(server.root + GATEWAY, json=steps[:1])
    assert failed.headers["x-emulator-fault"] == "internal"


@pytest.mark.inferred
def test_a_step_that_no_rule_matches_does_not_make_the_call_unmatched(tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text("- contains: known\n  answer: OK\n", "utf-8")
    flags = ("--backend", "scripted", "--script", str(tmp_path / "rules.yaml"), "--strict")
    steps = [
        {"provider": "workers-ai", "endpoint": INT8, "query": {"prompt": prompt}}
        for prompt in ("other", "known")
    ]
    with server_process(*flags) as strict:
        assert httpx.post(strict.root + GATEWAY, json=steps).status_code == 200
        assert not httpx.get(f"{strict.root}/_emulator/unmatched").json()["requests"]
        assert httpx.post(strict.root + GATEWAY, json=steps[::-1][1:]).status_code == 500
        assert httpx.get(f"{strict.root}/_emulator/unmatched").json()["requests"]


API = f"/client/v4/accounts/{ACCOUNT_ID}/ai"
GPT_OSS = "@cf/openai/gpt-oss-20b"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (f"run/{INT8}", {"prompt": "Hi"}),
        ("run", {"model": INT8, "input": {"prompt": "Hi"}}),
        ("v1/chat/completions", CHAT),
        ("v1/completions", {"model": INT8, "prompt": "Hi"}),
        ("v1/responses", {"model": GPT_OSS, "input": "Hi"}),
    ],
)
def test_a_call_of_the_api_uses_the_cache_of_the_gateway_that_its_header_names(
    server: ServerProcess, path: str, body: dict[str, Any]
) -> None:
    def answer(**headers: str) -> str:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        response = httpx.post(f"{server.root}{API}/{path}", json=body, headers=names)
        assert not [name for name in response.headers if name.startswith("cf-aig")]
        return response.text.partition("Answer ")[2][:1]

    gateway, other = {"cf-aig-gateway-id": "gw"}, {"cf-aig-gateway-id": "other"}
    assert [answer(**gateway, **TTL) for _ in range(2)] == ["1", "1"]
    assert [answer(**TTL) for _ in range(2)] == ["2", "3"]
    assert [answer(**gateway) for _ in range(2)] == ["4", "5"]
    assert [answer(**other, **KEY), answer(**gateway, **KEY), answer(**other, **KEY)] == [
        "6",
        "7",
        "6",
    ]


@pytest.mark.inferred
def test_a_batch_through_a_named_gateway_is_not_cached(server: ServerProcess) -> None:
    url, body = f"{server.root}{API}/run/{LLAMA}", {"requests": [{"prompt": "one"}]}
    headers = {"cf-aig-gateway-id": "gw", **KEY}
    ids = {
        httpx.post(f"{url}?queueRequest=true", json=body, headers=headers).json()["result"][
            "request_id"
        ]
        for _ in range(2)
    }
    assert len(ids) == 2


def test_embeddings_of_the_api_come_from_the_cache_of_a_named_gateway(
    server: ServerProcess,
) -> None:
    body = {"model": BGE, "input": "Hi"}
    headers = {"cf-aig-gateway-id": "gw", **TTL}
    ids = {
        httpx.post(f"{server.root}{API}/v1/embeddings", json=body, headers=headers).headers[
            "cf-ai-req-id"
        ]
        for _ in range(2)
    }
    assert len(ids) == 1


@pytest.mark.inferred
def test_the_older_names_of_the_headers_have_the_same_effect(server: ServerProcess) -> None:
    older = {"cf-cache-ttl": "60"}
    assert [call(server, **older) for _ in range(2)] == [("MISS", "1"), ("HIT", "1")]
    assert call(server, **TTL, **{"cf-skip-cache": "true"}) == ("MISS", "2")
    assert call(server, **older, **{"cf-aig-skip-cache": "true"}) == ("MISS", "3")


@pytest.mark.inferred
def test_the_url_of_a_gateway_may_end_with_a_slash(server: ServerProcess) -> None:
    url = httpx.get(f"{server.root}/ai-gateway/gateways/gw/url/universal").json()["result"]["url"]
    step = {"provider": "workers-ai", "endpoint": INT8, "query": {"prompt": "Hi"}}
    assert url.endswith("/gw/") and call(server, url.removeprefix(server.root), [step])[1] == "1"


@pytest.mark.inferred
def test_a_step_may_be_a_text_completion(server: ServerProcess) -> None:
    query = {"model": INT8, "prompt": "Hi"}
    step = {"provider": "workers-ai", "endpoint": "v1/completions", "query": query}
    response = httpx.post(server.root + GATEWAY, json=[step])
    assert response.json()["choices"][0]["text"] == "Answer 1."


@pytest.mark.inferred
@pytest.mark.parametrize("path", ["workers-ai/v1/responses", ""])
def test_the_responses_api_is_available_through_a_gateway(server: ServerProcess, path: str) -> None:
    body: Any = {"model": GPT_OSS, "input": "Hi"}
    if not path:
        body = [{"provider": "workers-ai", "endpoint": "v1/responses", "query": body}]
    response = httpx.post(f"{server.root}{GATEWAY}/{path}", json=body)
    assert response.json()["output"][-1]["content"][0]["text"] == "Answer 1."


@pytest.mark.inferred
@pytest.mark.parametrize("path", ["compat/embeddings", ""])
def test_compat_computes_embeddings(server: ServerProcess, path: str) -> None:
    query: Any = {"model": f"workers-ai/{BGE}", "input": "Hi"}
    step = {"provider": "compat", "endpoint": "embeddings", "query": query}
    response = httpx.post(f"{server.root}{GATEWAY}/{path}", json=query if path else [step])
    direct = httpx.post(f"{server.root}{API}/v1/embeddings", json={"model": BGE, "input": "Hi"})
    assert response.json()["data"] == direct.json()["data"]


@pytest.mark.parametrize("endpoint", ["chat/completions", "embeddings"])
@pytest.mark.parametrize(
    ("model", "code"),
    [
        pytest.param("azure/gpt-4", 2008, marks=pytest.mark.inferred),
        pytest.param("kimi-k2.6", 2005, marks=pytest.mark.recorded),
    ],
)
def test_compat_refuses_a_name_without_a_known_provider(
    server: ServerProcess, endpoint: str, model: str, code: int
) -> None:
    num_lines = len(server.log)
    body = {"model": model, "messages": [], "input": "Hi"}
    response = httpx.post(f"{server.root}{GATEWAY}/compat/{endpoint}", json=body)
    assert (response.status_code, response.json()["internalCode"]) == (400, code)
    line = "models of compat that are emulated have names that begin with workers-ai/ or @"
    wait_until(lambda: any(line in each for each in server.log[num_lines:]))


@pytest.mark.recorded  # a measurement of September 2026; in July, the service sent 2008
def test_compat_serves_a_name_without_the_provider(server: ServerProcess) -> None:
    chat, texts = CHAT | {"model": INT8}, {"model": BGE, "input": "Hi"}
    for endpoint, body in (("chat/completions", chat), ("embeddings", texts)):
        url = f"{server.root}{GATEWAY}/compat/{endpoint}"
        named, bare = (
            httpx.post(url, json=body | {"model": name}, timeout=60)
            for name in (f"workers-ai/{body['model']}", body["model"])
        )
        assert bare.status_code == named.status_code == 200
        assert bare.json().keys() == named.json().keys()


@pytest.mark.inferred
def test_with_any_model_names_of_other_providers_are_served() -> None:
    chat = {"model": "openai/gpt-4.1", "messages": CHAT["messages"]}
    binding = {"cf-consn-model-id": "openai/gpt-4.1", "cf-consn-sdk-version": "2.0.0"}
    calls: list[tuple[str, Any, dict[str, str]]] = [
        (f"{API}/v1/chat/completions", chat, {}),
        (f"{API}/run", {"model": "openai/gpt-4.1", "input": chat}, {}),
        (f"{API}/run/openai/gpt-4.1", chat, {}),
        (f"{GATEWAY}/compat/chat/completions", chat, {}),
        ("/ai-gateway/run?version=3", {"inputs": chat}, binding),
    ]
    with server_process("--backend", "scripted", "--any-model") as server:
        for path, body, headers in calls:
            response = httpx.post(server.root + path, json=body, headers=headers)
            value = response.json()
            completion = value.get("result", value)
            assert completion["model"] == "openai/gpt-4.1"
            assert completion["choices"][0]["message"]["content"]
        response = httpx.post(
            f"{server.root}{API}/v1/responses", json={"model": "openai/gpt-4.1", "input": "Hi"}
        )
        assert response.json()["output"]
        refused = httpx.post(f"{server.root}{API}/v1/messages", json={"model": "anthropic/claude"})
        assert refused.json()["errors"][0]["code"] == 3906


@pytest.mark.inferred
def test_compat_lists_the_models_with_their_costs_per_token(server: ServerProcess) -> None:
    models = httpx.get(f"{server.root}{GATEWAY}/compat/models").json()
    entries = {entry["id"]: entry for entry in models["data"]}
    assert (models["object"], len(entries)) == ("list", len(models["data"]))
    gpt_oss = entries["workers-ai/@cf/openai/gpt-oss-120b"]
    assert (gpt_oss["object"], gpt_oss["owned_by"]) == ("model", "workers-ai")
    assert (gpt_oss["cost_in"], gpt_oss["cost_out"]) == pytest.approx((0.35e-6, 0.75e-6), rel=1e-4)
    chat = {"model": gpt_oss["id"], "messages": [{"role": "user", "content": "Hi"}]}
    assert httpx.post(f"{server.root}{GATEWAY}/compat/chat/completions", json=chat).is_success


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
    server.reset()
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


@pytest.mark.parametrize(
    ("path", "body", "hint"),
    [
        (
            GATEWAY,
            [{"provider": "openai", "endpoint": "chat/completions", "query": {}}],
            "hint: provider openai is not emulated, only workers-ai and compat",
        ),
        (
            f"{GATEWAY}/compat/chat/completions",
            {"model": "openai/gpt-4o", "messages": []},
            "hint: models of compat that are emulated have names that begin with workers-ai/ or @",
        ),
    ],
)
def test_the_log_says_that_a_provider_is_not_emulated(
    server: ServerProcess, path: str, body: Any, hint: str
) -> None:
    response = httpx.post(server.root + path, json=body)
    assert response.status_code == 400 and "hint" not in response.text
    wait_until(lambda: any(hint in line for line in server.log))
