"""What a Worker's AI binding sends, in all its protocols and through all doors."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from typing import Any

import httpx
import pytest

from tests.server import ACCOUNT_ID, INT8, ServerProcess

pytestmark = pytest.mark.documented

INPUTS = {"prompt": "Say yes.", "max_tokens": 8, "temperature": 0}
NATIVE = {"cf-consn-sdk-version": "2.0.0", "cf-consn-model-id": INT8}
PROXY = f"/client/v4/accounts/{ACCOUNT_ID}/ai/run/proxy"
PROMPT = "[INST] <<SYS>>\nYou are kind\n<</SYS>>\n\nSay yes. [/INST]"


def through_plugin(server: ServerProcess, body: Any, **options: Any) -> httpx.Response:
    """The request that workerd makes where its `external` service is this server."""
    headers = {"host": "workers-binding.ai", **NATIVE, **options.pop("headers", {})}
    path = options.pop("path", "/run?version=3")
    return httpx.post(server.root + path, content=pack(body), headers=headers, timeout=120)


def through_miniflare(server: ServerProcess, body: Any, **options: Any) -> httpx.Response:
    """The request of Miniflare's remote proxy: all of the binding's own is in headers."""
    headers = {**NATIVE, "content-type": "application/json", **options.pop("headers", {})}
    inside = {f"mf-header-{name}": value for name, value in headers.items()}
    path = options.pop("path", "/run?version=3")
    inside |= {"mf-binding": "AI", "mf-url": f"https://workers-binding.ai{path}"}
    return httpx.post(server.root, content=pack(body), headers=inside, timeout=120)


def through_wrangler_3(server: ServerProcess, body: Any, **options: Any) -> httpx.Response:
    path = options.pop("path", "/run?version=3")
    headers = {
        "x-forwarded": f"https://workers-binding.ai{path}",
        "authorization": "Bearer local",
        **NATIVE,
        **options.pop("headers", {}),
    }
    return httpx.post(server.root + PROXY, content=pack(body), headers=headers, timeout=120)


def pack(body: Any) -> bytes:
    return body if isinstance(body, bytes) else json.dumps(body).encode()


def native(inputs: Mapping[str, Any], **options: Any) -> dict[str, Any]:
    return {"inputs": inputs, "options": options}


def tensors(prompt: str, max_tokens: int, **call: Any) -> dict[str, Any]:
    return {
        "input": [
            {"type": "str", "shape": [1], "name": "INPUT_0", "value": [prompt]},
            {"type": "uint32", "shape": [1], "name": "INPUT_1", "value": [max_tokens]},
        ],
        "stream": False,
        **call,
    }


def vllm_tensors(prompt: str, max_tokens: int, **call: Any) -> dict[str, Any]:
    parameters = json.dumps({"max_tokens": max_tokens})
    return {
        "input": [
            {"type": "str", "shape": [1], "name": "text_input", "value": [prompt]},
            {"type": "str", "shape": [1], "name": "sampling_parameters", "value": [parameters]},
            {"type": "bool", "shape": [], "name": "stream", "value": False},
        ],
        "stream": False,
        **call,
    }


def texts(answer: httpx.Response, name: str) -> list[str]:
    """The value of that tensor in each event of a stream."""
    *events, end = answer.text.removesuffix("\n\n").split("\n\n")
    assert end == "data: [DONE]"
    results = [json.loads(event.removeprefix("data: "))["result"] for event in events]
    return [t["value"][0] for result in results for t in result if t["name"] == name]


DOORS = [through_plugin, through_miniflare, through_wrangler_3]


@pytest.mark.parametrize("through", DOORS)
def test_all_doors_lead_to_the_same_bare_answer(server: ServerProcess, through: Any) -> None:
    answer = through(server, native(INPUTS))
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == server.run(INPUTS).json()["result"]


@pytest.mark.parametrize("through", DOORS)
def test_all_doors_lead_to_the_same_stream(server: ServerProcess, through: Any) -> None:
    inputs = {**INPUTS, "stream": True, "seed": 1}
    answer = through(server, native(inputs))
    assert answer.headers["content-type"] == "text/event-stream"
    assert answer.text == server.run(inputs).text


@pytest.mark.parametrize("through", DOORS)
def test_all_doors_lead_to_the_same_error(server: ServerProcess, through: Any) -> None:
    answer = through(server, native({**INPUTS, "temperature": 9}))
    error = answer.json()
    assert (answer.status_code, error["name"], error["internalCode"]) == (400, "AiError", 5006)
    assert error["description"].startswith("Error: oneOf at '/' not met")
    assert error["requestId"] == answer.headers["cf-ai-req-id"]


@pytest.mark.parametrize("through", DOORS)
def test_models_are_found_through_all_doors(server: ServerProcess, through: Any) -> None:
    answer = httpx.get(f"{server.root}/ai-api/models/search", headers={"host": "ai.cloudflare.com"})
    assert INT8 in [model["name"] for model in answer.json()["result"]]


@pytest.mark.inferred
@pytest.mark.parametrize(
    ("sdk_version", "body"),
    [("1.0.53", tensors(PROMPT, 8)), ("1.1.0", native(INPUTS)), ("2.0.0", native(INPUTS))],
)
def test_where_wrangler_does_not_say_what_was_asked_the_sdk_tells(
    server: ServerProcess, sdk_version: str, body: Any
) -> None:
    headers = {"cf-consn-model-id": INT8, "cf-consn-sdk-version": sdk_version}
    answer = httpx.post(server.root + PROXY, json=body, headers=headers, timeout=120)
    assert answer.status_code == 200
    assert answer.content.startswith(gzip.compress(b"")[:2]) == (sdk_version == "1.1.0")


def test_sdk_1_1_gets_gzip_that_no_header_announces(server: ServerProcess) -> None:
    # Its own requests announce an encoding that is none.
    headers = {"content-encoding": "application/json", "cf-consn-sdk-version": "1.1.0"}
    answer = through_plugin(server, native(INPUTS), path="/run?version=2", headers=headers)
    assert answer.headers["content-type"] == "application/json"
    assert "content-encoding" not in answer.headers
    assert json.loads(gzip.decompress(answer.content)) == server.run(INPUTS).json()["result"]


def test_sdk_1_1_gets_streams_and_errors_as_they_are(server: ServerProcess) -> None:
    inputs = {**INPUTS, "stream": True, "seed": 1}
    stream = through_plugin(server, native(inputs), path="/run?version=2")
    assert stream.text == server.run(inputs).text
    assert through_plugin(server, native({}), path="/run?version=2").json()["internalCode"] == 5006


@pytest.mark.parametrize("is_packed", [False, True])
def test_sdk_1_0_gets_tensors(server: ServerProcess, is_packed: bool) -> None:
    body = pack(tensors(PROMPT, 8))
    answer = through_plugin(server, gzip.compress(body) if is_packed else body, path="/run")
    result = answer.json()["result"]
    assert [tensor["name"] for tensor in result] == ["name", "generated_text"]
    assert all((t["type"], t["shape"], len(t["value"])) == ("str", [1], 1) for t in result)
    assert result[0]["value"] == result[1]["value"] != [""]


def test_sdk_1_0_gets_streams_of_tensors(server: ServerProcess) -> None:
    answer = through_plugin(server, tensors(PROMPT, 8, stream=True), path="/run")
    assert answer.headers["content-type"] == "text/event-stream"
    assert texts(answer, "name") == texts(answer, "generated_text")
    assert 1 <= len(texts(answer, "name")) <= 8


def test_a_prompt_that_the_sdk_will_cut_off_comes_first(server: ServerProcess) -> None:
    whole = through_plugin(server, vllm_tensors(PROMPT, 8), path="/run").json()["result"][0]
    assert whole["value"][0].startswith(PROMPT) and len(whole["value"][0]) > len(PROMPT)
    stream = through_plugin(server, vllm_tensors(PROMPT, 8, stream=True), path="/run")
    assert texts(stream, "name")[0] == PROMPT


@pytest.mark.inferred
@pytest.mark.parametrize(
    "body",
    [
        {},
        [],
        {"input": []},
        {"input": "x"},
        {"input": [{"name": "INPUT_0", "value": ["hi"]}]},
        {"input": [{"name": "text_input", "value": ["hi"]}]},
        {"input": [{"name": "INPUT_0", "value": [1]}, {"name": "INPUT_1", "value": ["x"]}]},
        {"input": [{"name": "text_input", "value": ["hi"]}, {"name": "sampling_parameters",
         "value": ["{"]}]},
        {"input": [None, 1, {"name": {}, "value": {}}]},
    ],
)  # fmt: skip
def test_tensors_of_no_text_generation_are_refused(server: ServerProcess, body: Any) -> None:
    answer = through_plugin(server, body, path="/run")
    assert (answer.status_code, answer.json()["internalCode"]) == (400, 3003)


@pytest.mark.inferred
@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"{}", gzip.compress(b"x" * 99)[:40]])
def test_a_body_without_inputs_is_refused(server: ServerProcess, body: bytes) -> None:
    answer = through_plugin(server, body)
    assert (answer.status_code, answer.json()["internalCode"]) == (400, 3003)


def test_a_body_that_unpacks_to_too_much_is_refused(server: ServerProcess) -> None:
    answer = through_plugin(server, gzip.compress(b" " * (17 * 2**20)))
    assert (answer.status_code, answer.json()["internalCode"]) == (413, 3006)


@pytest.mark.parametrize("name", [f"my-prefix:{INT8}", INT8])
def test_the_model_may_have_a_prefix(server: ServerProcess, name: str) -> None:
    answer = through_plugin(server, native(INPUTS), headers={"cf-consn-model-id": name})
    assert answer.status_code == 200


def test_an_unknown_model_is_5007(server: ServerProcess) -> None:
    headers = {"cf-consn-model-id": "@cf/meta/llama-9"}
    error = through_plugin(server, native(INPUTS), headers=headers).json()
    assert error["internalCode"] == 5007
    assert error["description"] == "No such model @cf/meta/llama-9 or task"


@pytest.mark.inferred
def test_a_file_beside_the_inputs_is_refused(server: ServerProcess) -> None:
    headers = {"content-type": "audio/mpeg"}
    path = "/run?version=3&userInputs=%7B%7D"
    error = through_plugin(server, b"\xff\xf3", path=path, headers=headers).json()
    assert (error["internalCode"], "audio/mpeg" in error["description"]) == (5004, True)


@pytest.mark.inferred
def test_a_batch_is_refused(server: ServerProcess) -> None:
    answer = through_plugin(server, native(INPUTS, queueRequest=True))
    assert answer.json()["internalCode"] == 5006


def test_a_call_through_a_gateway_has_its_log_id(server: ServerProcess) -> None:
    answer = through_plugin(server, native(INPUTS), path="/ai-gateway/run?version=3")
    assert len(answer.headers["cf-aig-log-id"]) == 26
    assert answer.json() == server.run(INPUTS).json()["result"]


def step(provider: str, endpoint: str, **query: Any) -> dict[str, Any]:
    return {"provider": provider, "endpoint": endpoint, "headers": {}, "query": query}


@pytest.mark.parametrize("path", ["/ai-gateway/universal/run/gw", f"/v1/{ACCOUNT_ID}/gw"])
def test_a_universal_call_falls_back_to_the_next_step(server: ServerProcess, path: str) -> None:
    steps = [
        step("openai", "chat/completions", model="gpt-4"),
        step("workers-ai", INT8, max_tokens=8),
        step("workers-ai", INT8, **INPUTS),
    ]
    answer = through_plugin(server, steps, path=path)
    assert answer.headers["cf-aig-step"] == "2"
    assert answer.json() == server.run(INPUTS).json()


def test_a_universal_call_may_be_one_step_of_openai_s_form(server: ServerProcess) -> None:
    messages = [{"role": "user", "content": "Say yes."}]
    query = step("workers-ai", "v1/chat/completions", model=INT8, messages=messages, max_tokens=8)
    answer = through_plugin(server, query, path="/ai-gateway/universal/run/gw")
    assert answer.json()["object"] == "chat.completion"


@pytest.mark.inferred
@pytest.mark.parametrize(
    ("steps", "code"),
    [
        ([], 3003),
        ([1], 3003),
        ([step("openai", "chat/completions")], 5007),
        ([step("openai", "x"), step("workers-ai", INT8, prompt=1)], 5006),
    ],
)
def test_a_universal_call_without_an_answer_gives_the_last_error(
    server: ServerProcess, steps: Any, code: int
) -> None:
    answer = through_plugin(server, steps, path="/ai-gateway/universal/run/gw")
    assert answer.json()["internalCode"] == code


@pytest.mark.inferred
@pytest.mark.parametrize(
    ("method", "path", "name"),
    [
        ("POST", "/to-everything/markdown/transformer", "env.AI.toMarkdown()"),
        ("GET", "/to-everything/markdown/supported", "env.AI.toMarkdown()"),
        ("GET", "/ai-gateway/gateways/gw/logs/1", "env.AI.gateway().getLog()"),
        ("PATCH", "/ai-gateway/gateways/gw/logs/1", "env.AI.gateway().patchLog()"),
        ("GET", "/autorag/rags", "env.AI.autorag().list()"),
        ("POST", "/autorag/rags/my-rag/search", "env.AI.autorag().search()"),
        ("POST", "/autorag/rags/my-rag/ai-search", "env.AI.autorag().aiSearch()"),
        ("GET", "/run?version=3&body=%7B%7D", "env.AI.run() with the option websocket"),
    ],
)
def test_a_method_that_is_not_emulated_is_an_error_that_names_it(
    server: ServerProcess, method: str, path: str, name: str
) -> None:
    headers = {"upgrade": "websocket", "connection": "upgrade"} if "/run" in path else {}
    answer = httpx.request(method, server.root + path, headers=headers)
    [error] = answer.json()["errors"]  # which workerd's class shows as the message of its error
    assert (answer.status_code, error["code"]) == (405, 3904)
    assert error["message"].startswith(f"The emulator does not have {name}, only ")


@pytest.mark.parametrize("path", ["/ai-gateway/universal/run/gw", f"/v1/{ACCOUNT_ID}/gw"])
def test_a_step_of_the_provider_compat_works_as_its_url(server: ServerProcess, path: str) -> None:
    messages = [{"role": "user", "content": "Say yes."}]
    query = {"model": f"workers-ai/{INT8}", "messages": messages, "max_tokens": 8, "temperature": 0}
    answer = through_plugin(server, step("compat", "chat/completions", **query), path=path)
    url = f"{server.root}/v1/{ACCOUNT_ID}/gw/compat/chat/completions"
    expected = httpx.post(url, json=query, timeout=120)
    assert answer.json()["choices"] == expected.json()["choices"]
    assert answer.headers["cf-aig-step"] == "0"


@pytest.mark.inferred
@pytest.mark.parametrize(
    ("endpoint", "model"),
    [("chat/completions", "openai/gpt-4"), ("chat/completions", INT8), ("embeddings", INT8)],
)
def test_a_step_of_compat_with_a_model_of_another_provider_is_no_such_model(
    server: ServerProcess, endpoint: str, model: str
) -> None:
    query = step("compat", endpoint, model=model, messages=[])
    answer = through_plugin(server, query, path="/ai-gateway/universal/run/gw")
    assert answer.json()["internalCode"] == 5007


def test_the_gateway_s_url_leads_here(server: ServerProcess) -> None:
    url = httpx.get(f"{server.root}/ai-gateway/gateways/gw/url/workers-ai").json()["result"]["url"]
    answer = httpx.post(f"{url}/{INT8}", json=INPUTS, timeout=120)
    assert answer.json() == server.run(INPUTS).json()


def test_a_binding_needs_no_token_but_wrangler_s_is_checked(strict: ServerProcess) -> None:
    assert through_plugin(strict, native({})).json()["internalCode"] == 5006
    assert through_miniflare(strict, native({})).json()["internalCode"] == 5006
    assert through_wrangler_3(strict, native({})).json()["errors"][0]["code"] == 10000
    headers = {"authorization": "Bearer first"}
    answer = through_wrangler_3(strict, native({}), headers=headers)
    assert answer.json()["internalCode"] == 5006


@pytest.mark.parametrize("url", ["http://[", "", "no url", "https://workers-binding.ai/nothing"])
def test_a_door_that_leads_nowhere_is_no_route(server: ServerProcess, url: str) -> None:
    answer = httpx.post(server.root, headers={"mf-url": url, "mf-binding": "AI"})
    assert answer.json()["errors"][0]["code"] == 7000


def test_an_upgrade_is_not_taken(server: ServerProcess) -> None:
    """Older versions of Miniflare try it before every request, and do without."""
    headers = {"upgrade": "websocket", "connection": "Upgrade", "sec-websocket-key": "x" * 24}
    answer = httpx.get(f"{server.root}/?MF-Binding=AI", headers=headers)
    assert answer.status_code == 400


@pytest.mark.parametrize(
    ("method", "path", "result"),
    [
        ("GET", "subdomain/edge-preview", {"token": "local"}),
        ("GET", "subdomain", {"subdomain": "local"}),
        ("POST", "scripts/my-worker/edge-preview", {"preview_token": "local"}),
    ],
)
def test_wrangler_gets_its_remote_session(
    server: ServerProcess, method: str, path: str, result: dict[str, str]
) -> None:
    url = f"{server.base_url}/accounts/{ACCOUNT_ID}/workers/{path}"
    assert httpx.request(method, url).json()["result"] == result
