"""What Cloudflare's API front says before a model is reached, and the headers of every answer."""

from __future__ import annotations

import re

import httpx
import pytest

from tests.server import ACCOUNT_ID, INT8, ServerProcess

NO_ROUTE = (
    '{"success":false,"errors":[{"code":7000,"message":"No route for that URI"}],'
    '"messages":[],"result":null}'
)
UUID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"


def post(server: ServerProcess, path: str, body: str = "{}") -> httpx.Response:
    return httpx.post(server.base_url + path, content=body)


@pytest.mark.recorded
@pytest.mark.parametrize("path", [f"/accounts/{ACCOUNT_ID}/ai/nothing", "/nothing", ""])
def test_an_unknown_route_is_7000(server: ServerProcess, path: str) -> None:
    answer = post(server, path)
    assert (answer.status_code, answer.text) == (400, NO_ROUTE)


@pytest.mark.recorded
def test_a_malformed_account_on_a_known_route_is_7003(server: ServerProcess) -> None:
    answer = post(server, "/accounts/anonymous/ai/run/@cf/meta/llama-3.1-8b-instruct")
    assert (answer.status_code, answer.text) == (
        404,
        '{"result":null,"success":false,"errors":[{"code":7003,"message":"Could not route to '
        "/client/v4/accounts/anonymous/ai/run/@cf/meta/llama-3.1-8b-instruct, perhaps your object "
        'identifier is invalid?"}],"messages":[]}',
    )


@pytest.mark.recorded
def test_a_malformed_account_on_an_unknown_route_is_7003_and_7000(server: ServerProcess) -> None:
    answer = post(server, "/accounts/xxx/ai/v1")
    assert (answer.status_code, answer.text) == (
        400,
        r'{"success":false,"errors":[{"code":7003,"message":"Could not route to '
        r"\/accounts\/xxx\/ai\/v1, perhaps your object identifier is invalid?"
        r'"},{"code":7000,"message":"No route for that URI"}],"messages":[],"result":null}',
    )


@pytest.mark.inferred
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
def test_a_wrong_method_is_7001(server: ServerProcess, method: str) -> None:
    answer = httpx.request(method, server.run_url())
    assert (answer.status_code, answer.text) == (
        405,
        '{"result":null,"success":false,"errors":[{"code":7001,'
        f'"message":"{method} not supported for requested URI."}}],"messages":[]}}',
    )


@pytest.mark.documented
@pytest.mark.parametrize(
    "path",
    [
        f"/accounts/{ACCOUNT_ID}/ai/run/@cf%2Fmeta%2Fllama-2-7b-chat-int8",
        f"/accounts/{ACCOUNT_ID}/ai/run/%40cf/meta/llama-2-7b-chat-int8",
        f"/accounts//{ACCOUNT_ID}/ai//run/{INT8}",
        f"/accounts/{ACCOUNT_ID}/ai/run/{INT8}?stop=x",
    ],
)
def test_the_paths_that_clients_send_reach_the_model(server: ServerProcess, path: str) -> None:
    assert post(server, path, '{"prompt":"Hi","max_tokens":1}').status_code == 200


@pytest.mark.recorded
def test_an_answer_of_the_model_layer_has_a_request_id(server: ServerProcess) -> None:
    good = server.run({"prompt": "Hi", "max_tokens": 1})
    assert re.fullmatch(UUID, good.headers["cf-ai-req-id"])
    bad = server.run({})
    assert bad.json()["errors"][0]["message"].endswith(f" ({bad.headers['cf-ai-req-id']})")


@pytest.mark.recorded
def test_the_front_s_own_answers_have_none(server: ServerProcess) -> None:
    assert "cf-ai-req-id" not in post(server, "/nothing").headers
    assert "cf-ai-req-id" not in httpx.get(server.run_url()).headers


@pytest.mark.recorded
def test_the_content_type_is_bare(server: ServerProcess) -> None:
    assert server.run({"prompt": "Hi", "max_tokens": 1}).headers["content-type"] == (
        "application/json"
    )
    assert post(server, "/nothing").headers["content-type"] == "application/json"
    stream = server.run({"prompt": "Hi", "max_tokens": 1, "stream": True})
    assert stream.headers["content-type"] == "text/event-stream"
    assert "content-encoding" not in stream.headers


@pytest.mark.inferred
@pytest.mark.parametrize("is_stream", [True, False])
def test_every_answer_of_the_api_has_the_front_s_headers(
    server: ServerProcess, is_stream: bool
) -> None:
    headers = server.run({"prompt": "Hi", "max_tokens": 1, "stream": is_stream}).headers
    assert re.fullmatch(r"[0-9a-f]{16}-[A-Z]{3}", headers["cf-ray"])
    assert headers["server"] == "cloudflare"
    assert headers["cf-cache-status"] == "DYNAMIC"
    assert headers["cache-control"].startswith("no-store")
    assert headers["x-content-type-options"] == "nosniff"
    assert len(headers.get_list("server")) == 1
