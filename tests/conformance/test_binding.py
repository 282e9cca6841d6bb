"""Tests requests of a Worker's AI binding, as workerd, Miniflare and wrangler 3 send them."""

from __future__ import annotations

import gzip
import json
import subprocess
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.npm import cache_folder, install, require_node
from tests.server import ACCOUNT_ID, INT8, ServerProcess, server_process

pytestmark = pytest.mark.documented

Headers = Mapping[str, str]
Transport = Callable[..., httpx.Response]

INPUTS = {"prompt": "Say yes.", "max_tokens": 8, "temperature": 0}
NATIVE = {"cf-consn-sdk-version": "2.0.0", "cf-consn-model-id": INT8}
# Version 1.1 of the SDK sends this invalid content encoding.
SDK_1_1 = {"content-encoding": "application/json", "cf-consn-sdk-version": "1.1.0"}
PROXY = f"/client/v4/accounts/{ACCOUNT_ID}/ai/run/proxy"
PROMPT = "[INST] <<SYS>>\nYou are kind\n<</SYS>>\n\nSay yes. [/INST]"


def workerd(path: str, headers: Headers) -> tuple[str, Headers]:
    """Returns the path and headers of a binding's request as workerd sends them: unchanged."""
    return path, {"host": "workers-binding.ai", **headers}


def miniflare(path: str, headers: Headers) -> tuple[str, Headers]:
    """Returns the path and headers of a binding's request as Miniflare's remote proxy sends them.

    The proxy sends the URL and all headers of the request inside headers.
    """
    inner = {"content-type": "application/json", **headers}
    outer = {"mf-binding": "AI", "mf-url": f"https://workers-binding.ai{path}"}
    return "/", outer | {f"mf-header-{name}": value for name, value in inner.items()}


def wrangler_3(path: str, headers: Headers) -> tuple[str, Headers]:
    """Returns the path and headers of a binding's request as wrangler 3 sends them.

    wrangler 3 sends the URL of the request inside a header, and adds the user's token.
    """
    url = f"https://workers-binding.ai{path}"
    return PROXY, {"x-forwarded": url, "authorization": "Bearer local", **headers}


def send(
    wrap: Callable[[str, Headers], tuple[str, Headers]],
    server: ServerProcess,
    body: Any,
    *,
    path: str = "/run?version=3",
    headers: Headers | None = None,
    method: str = "POST",
) -> httpx.Response:
    """Sends a binding's request to the server.

    `wrap`: returns the path and headers that a tool such as Miniflare sends for the request.
    `body`: bytes, or a value that is sent as JSON.
    """
    path, headers = wrap(path, {**NATIVE, **(headers or {})})
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return httpx.request(method, server.root + path, content=content, headers=headers, timeout=120)


via_workerd = partial(send, workerd)
via_miniflare = partial(send, miniflare)
via_wrangler_3 = partial(send, wrangler_3)


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


def texts(response: httpx.Response, name: str) -> list[str]:
    """Returns the value of the tensor `name` from each event of a stream."""
    *events, end = response.text.removesuffix("\n\n").split("\n\n")
    assert end == "data: [DONE]"
    results = [json.loads(event.removeprefix("data: "))["result"] for event in events]
    return [t["value"][0] for result in results for t in result if t["name"] == name]


TRANSPORTS = [
    pytest.param(via_workerd, id="workerd"),
    pytest.param(via_miniflare, id="miniflare"),
    pytest.param(via_wrangler_3, id="wrangler_3"),
]


@pytest.mark.parametrize("via", TRANSPORTS)
def test_every_transport_gets_the_result_without_an_envelope(
    server: ServerProcess, via: Transport
) -> None:
    response = via(server, native(INPUTS))
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.json() == server.run(INPUTS).json()["result"]


@pytest.mark.parametrize("via", TRANSPORTS)
def test_every_transport_gets_the_stream_of_the_run_endpoint(
    server: ServerProcess, via: Transport
) -> None:
    inputs = {**INPUTS, "stream": True, "seed": 1}
    response = via(server, native(inputs))
    assert response.headers["content-type"] == "text/event-stream"
    assert response.text == server.run(inputs).text


@pytest.mark.parametrize("via", TRANSPORTS)
def test_every_transport_gets_an_error_without_an_envelope(
    server: ServerProcess, via: Transport
) -> None:
    response = via(server, native({**INPUTS, "temperature": 9}))
    error = response.json()
    assert (response.status_code, error["name"], error["internalCode"]) == (400, "AiError", 5006)
    assert error["description"].startswith("Error: oneOf at '/' not met")
    assert error["requestId"] == response.headers["cf-ai-req-id"]


@pytest.mark.parametrize("via", TRANSPORTS)
def test_every_transport_gets_the_list_of_models(server: ServerProcess, via: Transport) -> None:
    response = via(server, b"", path="/ai-api/models/search", method="GET")
    assert INT8 in [model["name"] for model in response.json()["result"]]


@pytest.mark.inferred
@pytest.mark.parametrize(
    ("sdk_version", "body"),
    [("1.0.53", tensors(PROMPT, 8)), ("1.1.0", native(INPUTS)), ("2.0.0", native(INPUTS))],
)
def test_without_a_forwarded_url_the_sdk_version_chooses_the_protocol(
    server: ServerProcess, sdk_version: str, body: Any
) -> None:
    headers = {"cf-consn-model-id": INT8, "cf-consn-sdk-version": sdk_version}
    response = httpx.post(server.root + PROXY, json=body, headers=headers, timeout=120)
    assert response.status_code == 200
    assert response.content.startswith(gzip.compress(b"")[:2]) == (sdk_version == "1.1.0")


def test_sdk_1_1_gets_gzip_without_a_content_encoding(server: ServerProcess) -> None:
    response = via_workerd(server, native(INPUTS), path="/run?version=2", headers=SDK_1_1)
    assert response.headers["content-type"] == "application/json"
    assert "content-encoding" not in response.headers
    assert json.loads(gzip.decompress(response.content)) == server.run(INPUTS).json()["result"]


def test_a_binding_of_workerd_with_version_2_gets_plain_json(server: ServerProcess) -> None:
    response = via_workerd(server, native(INPUTS), path="/run?version=2", headers=NATIVE)
    assert response.json() == server.run(INPUTS).json()["result"]


def test_sdk_1_1_gets_streams_and_errors_uncompressed(server: ServerProcess) -> None:
    call = partial(via_workerd, server, path="/run?version=2", headers=SDK_1_1)
    inputs = {**INPUTS, "stream": True, "seed": 1}
    assert call(native(inputs)).text == server.run(inputs).text
    assert call(native({})).json()["internalCode"] == 5006


@pytest.mark.parametrize("is_gzipped", [False, True])
def test_sdk_1_0_gets_tensors(server: ServerProcess, is_gzipped: bool) -> None:
    body = json.dumps(tensors(PROMPT, 8)).encode()
    response = via_workerd(server, gzip.compress(body) if is_gzipped else body, path="/run")
    result = response.json()["result"]
    assert [tensor["name"] for tensor in result] == ["name", "generated_text"]
    assert all((t["type"], t["shape"], len(t["value"])) == ("str", [1], 1) for t in result)
    assert result[0]["value"] == result[1]["value"] != [""]


def test_sdk_1_0_gets_streams_of_tensors(server: ServerProcess) -> None:
    response = via_workerd(server, tensors(PROMPT, 8, stream=True), path="/run")
    assert response.headers["content-type"] == "text/event-stream"
    assert texts(response, "name") == texts(response, "generated_text")
    assert 1 <= len(texts(response, "name")) <= 8


def test_a_text_begins_with_the_prompt_if_the_sdk_removes_it(server: ServerProcess) -> None:
    whole = via_workerd(server, vllm_tensors(PROMPT, 8), path="/run").json()["result"][0]
    assert whole["value"][0].startswith(PROMPT) and len(whole["value"][0]) > len(PROMPT)
    stream = via_workerd(server, vllm_tensors(PROMPT, 8, stream=True), path="/run")
    assert texts(stream, "name")[0] == PROMPT


@pytest.mark.node
def test_sdk_1_0_gets_the_same_embeddings_as_other_clients(server: ServerProcess) -> None:
    model, texts = "@cf/baai/bge-base-en-v1.5", ["one", "two"]
    require_node()
    sdk = install(["@cloudflare/ai@1.0.53"], cache_folder()) / "@cloudflare/ai/dist/index.js"
    program = Path(__file__).with_name("embedding_sdk.mjs")
    command = ["node", str(program), str(sdk), server.root, model, *texts]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    expected = server.run({"text": texts}, model).json()["result"]
    assert json.loads(done.stdout) == {key: expected[key] for key in ("shape", "data")}


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
def test_tensors_that_are_no_input_of_text_generation_are_refused(
    server: ServerProcess, body: Any
) -> None:
    response = via_workerd(server, body, path="/run")
    assert (response.status_code, response.json()["internalCode"]) == (400, 3003)


@pytest.mark.inferred
@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b"{}", gzip.compress(b"x" * 99, mtime=0)[:40]]
)
def test_a_body_without_inputs_is_refused(server: ServerProcess, body: bytes) -> None:
    response = via_workerd(server, body)
    assert (response.status_code, response.json()["internalCode"]) == (400, 3003)


def test_a_gzipped_body_beyond_the_limit_is_refused(server: ServerProcess) -> None:
    response = via_workerd(server, gzip.compress(b" " * (17 * 2**20)))
    assert (response.status_code, response.json()["internalCode"]) == (413, 3006)


@pytest.mark.parametrize("name", [f"my-prefix:{INT8}", INT8])
def test_the_name_of_the_model_may_have_a_prefix(server: ServerProcess, name: str) -> None:
    response = via_workerd(server, native(INPUTS), headers={"cf-consn-model-id": name})
    assert response.status_code == 200


def test_an_unknown_model_is_5007(server: ServerProcess) -> None:
    headers = {"cf-consn-model-id": "@cf/meta/llama-9"}
    error = via_workerd(server, native(INPUTS), headers=headers).json()
    assert error["internalCode"] == 5007
    assert error["description"] == "No such model @cf/meta/llama-9 or task"


@pytest.mark.inferred
def test_an_audio_body_is_refused(server: ServerProcess) -> None:
    headers = {"content-type": "audio/mpeg"}
    path = "/run?version=3&userInputs=%7B%7D"
    error = via_workerd(server, b"\xff\xf3", path=path, headers=headers).json()
    assert (error["internalCode"], "audio/mpeg" in error["description"]) == (5004, True)


@pytest.mark.inferred
def test_a_batch_is_refused(server: ServerProcess) -> None:
    response = via_workerd(server, native(INPUTS, queueRequest=True))
    assert response.json()["internalCode"] == 8007


def test_a_call_through_a_gateway_gets_a_log_id(server: ServerProcess) -> None:
    response = via_workerd(server, native(INPUTS), path="/ai-gateway/run?version=3")
    assert len(response.headers["cf-aig-log-id"]) == 26
    assert response.json() == server.run(INPUTS).json()["result"]


def step(provider: str, endpoint: str, **query: Any) -> dict[str, Any]:
    return {"provider": provider, "endpoint": endpoint, "headers": {}, "query": query}


@pytest.mark.parametrize("path", ["/ai-gateway/universal/run/gw", f"/v1/{ACCOUNT_ID}/gw"])
def test_a_universal_call_falls_back_to_the_next_step(server: ServerProcess, path: str) -> None:
    steps = [
        step("openai", "chat/completions", model="gpt-4"),
        step("workers-ai", INT8, max_tokens=8),
        step("workers-ai", INT8, **INPUTS),
    ]
    response = via_workerd(server, steps, path=path)
    assert response.headers["cf-aig-step"] == "2"
    assert response.json() == server.run(INPUTS).json()


def test_a_universal_call_may_be_one_step_with_chat_completions(server: ServerProcess) -> None:
    messages = [{"role": "user", "content": "Say yes."}]
    query = step("workers-ai", "v1/chat/completions", model=INT8, messages=messages, max_tokens=8)
    response = via_workerd(server, query, path="/ai-gateway/universal/run/gw")
    assert response.json()["object"] == "chat.completion"


@pytest.mark.inferred
def test_a_universal_call_may_be_one_step_with_embeddings(server: ServerProcess) -> None:
    query = step("workers-ai", "v1/embeddings", model="@cf/baai/bge-small-en-v1.5", input="Hi")
    response = via_workerd(server, query, path="/ai-gateway/universal/run/gw")
    assert len(response.json()["data"][0]["embedding"]) == 384


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
def test_a_universal_call_whose_steps_all_fail_gets_the_last_error(
    server: ServerProcess, steps: Any, code: int
) -> None:
    response = via_workerd(server, steps, path="/ai-gateway/universal/run/gw")
    assert response.json()["internalCode"] == code


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
    # In the Worker, `env.AI` raises an exception with this error's message.
    [error] = answer.json()["errors"]
    assert (answer.status_code, error["code"]) == (405, 3904)
    assert error["message"].startswith(f"The emulator does not have {name}, only ")


@pytest.mark.parametrize("path", ["/ai-gateway/universal/run/gw", f"/v1/{ACCOUNT_ID}/gw"])
def test_a_step_of_the_provider_compat_works_as_its_url(server: ServerProcess, path: str) -> None:
    messages = [{"role": "user", "content": "Say yes."}]
    query = {"model": f"workers-ai/{INT8}", "messages": messages, "max_tokens": 8, "temperature": 0}
    answer = via_workerd(server, step("compat", "chat/completions", **query), path=path)
    url = f"{server.root}/v1/{ACCOUNT_ID}/gw/compat/chat/completions"
    expected = httpx.post(url, json=query, timeout=120)
    assert answer.json()["choices"] == expected.json()["choices"]
    assert answer.headers["cf-aig-step"] == "0"


@pytest.mark.inferred
@pytest.mark.parametrize(
    ("endpoint", "model", "code"),
    [
        ("chat/completions", "openai/gpt-4", 2008),
        ("embeddings", "openai/text-embedding-3-small", 2008),
        ("images", INT8, 5007),
    ],
)
def test_a_step_of_compat_with_a_model_of_another_provider_is_refused(
    server: ServerProcess, endpoint: str, model: str, code: int
) -> None:
    query = step("compat", endpoint, model=model, messages=[])
    answer = via_workerd(server, query, path="/ai-gateway/universal/run/gw")
    assert answer.json()["internalCode"] == code


@pytest.mark.inferred
@pytest.mark.parametrize("via", [via_workerd, via_miniflare])
@pytest.mark.parametrize("endpoint", ["compat", "workers-ai/v1"])
def test_the_binding_reaches_the_endpoints_of_a_provider_with_fetch(
    server: ServerProcess, via: Transport, endpoint: str
) -> None:
    messages = [{"role": "user", "content": "Say yes."}]
    query: dict[str, Any] = {"model": INT8, "messages": messages, "max_tokens": 8, "temperature": 0}
    headers = {"cf-aig-authorization": "Bearer cloudflare-gateway-binding"}
    place = f"{endpoint}/chat/completions"
    path = f"/ai-gateway/gateways/gw/{place}"
    answer = via(server, query, path=path, headers=headers)
    url = f"{server.root}/v1/{ACCOUNT_ID}/gw/{place}"
    expected = httpx.post(url, json=query, timeout=120)
    assert answer.json()["choices"] == expected.json()["choices"]
    assert answer.headers["cf-aig-log-id"]
    stream = via(server, query | {"stream": True}, path=path, headers=headers)
    assert stream.headers["content-type"].startswith("text/event-stream")
    assert stream.text.endswith("data: [DONE]\n\n")
    refused = via(server, query | {"max_tokens": "x"}, path=path, headers=headers)
    assert refused.json()["internalCode"] == 5006


def test_the_url_of_the_gateway_is_on_this_server(server: ServerProcess) -> None:
    url = httpx.get(f"{server.root}/ai-gateway/gateways/gw/url/workers-ai").json()["result"]["url"]
    response = httpx.post(f"{url}/{INT8}", json=INPUTS, timeout=120)
    assert response.json() == server.run(INPUTS).json()


def test_the_url_of_the_gateway_has_the_account_of_the_binding(server: ServerProcess) -> None:
    account = 16 * "5a"
    prefix = f"{server.root}/_emulator/accounts/{account}"
    answer = httpx.get(f"{prefix}/ai-gateway/gateways/gw/url/workers-ai").json()
    url = answer["result"]["url"]
    assert url == f"{server.root}/v1/{account}/gw/workers-ai"
    httpx.post(f"{prefix}/_emulator/faults", json={"fault": "capacity"})
    try:
        assert httpx.post(f"{url}/{INT8}", json=INPUTS, timeout=120).status_code == 429
    finally:
        httpx.post(f"{prefix}/_emulator/reset")


def test_an_ipv6_address_in_the_url_of_the_gateway_is_in_brackets() -> None:
    with server_process("--host", "::1", "--backend", "scripted") as server:
        answer = httpx.get(f"{server.root}/ai-gateway/gateways/gw/url/workers-ai").json()
        url = answer["result"]["url"]
        assert url == f"{server.root}/v1/{32 * '0'}/gw/workers-ai" and "//[::1]:" in url


def test_a_binding_needs_no_token_but_the_token_of_wrangler_3_is_checked(
    strict: ServerProcess,
) -> None:
    assert via_workerd(strict, native({})).json()["internalCode"] == 5006
    assert via_miniflare(strict, native({})).json()["internalCode"] == 5006
    assert via_wrangler_3(strict, native({})).json()["errors"][0]["code"] == 10000
    headers = {"authorization": "Bearer first"}
    response = via_wrangler_3(strict, native({}), headers=headers)
    assert response.json()["internalCode"] == 5006


@pytest.mark.parametrize("url", ["http://[", "", "no url", "https://workers-binding.ai/nothing"])
def test_a_wrapped_url_without_an_endpoint_is_7000(server: ServerProcess, url: str) -> None:
    response = httpx.post(server.root, headers={"mf-url": url, "mf-binding": "AI"})
    assert response.json()["errors"][0]["code"] == 7000


def test_a_websocket_upgrade_is_refused(server: ServerProcess) -> None:
    """Older versions of Miniflare first try a WebSocket, and send a usual request if that fails."""
    headers = {"upgrade": "websocket", "connection": "Upgrade", "sec-websocket-key": "x" * 24}
    response = httpx.get(f"{server.root}/?MF-Binding=AI", headers=headers)
    assert response.status_code == 400


@pytest.mark.parametrize(
    ("method", "path", "result"),
    [
        ("GET", "subdomain", {"subdomain": "local"}),
        ("POST", "subdomain/edge-preview/prewarm", None),
        ("POST", "scripts/my-worker/edge-preview", {"preview_token": "local"}),
    ],
)
def test_wrangler_gets_a_remote_session(
    server: ServerProcess, method: str, path: str, result: dict[str, str] | None
) -> None:
    assert httpx.request(method, f"{workers_url(server)}/{path}").json()["result"] == result


def test_the_urls_of_a_remote_session_have_the_host_that_the_client_used(
    server: ServerProcess,
) -> None:
    url = f"{workers_url(server)}/subdomain/edge-preview"
    result = httpx.get(url, headers={"host": "192.168.1.5:80"}).json()["result"]
    exchange_url = result["exchange_url"]
    assert exchange_url == f"http://192.168.1.5:80{httpx.URL(url).path}/exchange"
    session = httpx.get(exchange_url.replace("http://192.168.1.5:80", server.root)).json()
    assert session["token"] == result["token"]
    assert session["prewarm"] == f"{url}/prewarm"


def test_the_host_of_a_remote_session_never_resolves(server: ServerProcess) -> None:
    session = httpx.get(f"{workers_url(server)}/subdomain/edge-preview/exchange").json()
    # RFC 2606 reserves `.invalid`, so the name never resolves.
    assert httpx.URL(session["inspector_websocket"]).host.endswith(".invalid")


def workers_url(server: ServerProcess) -> str:
    return f"{server.base_url}/accounts/{ACCOUNT_ID}/workers"
