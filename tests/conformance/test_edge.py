"""Tests errors for unknown paths and methods, and the headers that Cloudflare's edge adds."""

from __future__ import annotations

import re

import httpx
import pytest

from tests.server import ACCOUNT_ID, INT8, ServerProcess

NO_ROUTE = (
    '{"success":false,"errors":[{"code":7000,"message":"No route for that URI"}],'
    '"messages":[],"result":null}'
)
EDGE_HEADERS = {
    "server": "cloudflare",
    "cf-cache-status": "DYNAMIC",
    "connection": "keep-alive",
    "expires": "Sun, 25 Jan 1981 05:00:00 GMT",
    "pragma": "no-cache",
    "strict-transport-security": "max-age=31536000",
    "transfer-encoding": "chunked",
    "vary": "Accept-Encoding",
    "x-content-type-options": "nosniff",
    "x-frame-options": "SAMEORIGIN",
}


def post(server: ServerProcess, path: str, body: str = "{}") -> httpx.Response:
    return httpx.post(server.base_url + path, content=body)


@pytest.mark.recorded
@pytest.mark.parametrize(
    "path",
    ["/client/v4", "/client/v4/nothing", "/", "/docs", "/openapi.json", "/_emulator/nothing"],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_unknown_route_is_7000(server: ServerProcess, method: str, path: str) -> None:
    response = httpx.request(method, server.root + path)
    assert (response.status_code, response.text) == (400, NO_ROUTE)


@pytest.mark.inferred
@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS"])
def test_a_wrong_method_is_7001(server: ServerProcess, method: str) -> None:
    response = httpx.request(method, server.run_url())
    assert (response.status_code, response.headers["allow"]) == (405, "POST")
    assert response.text == (
        '{"result":null,"success":false,"errors":[{"code":7001,'
        f'"message":"{method} not supported for requested URI."}}],"messages":[]}}'
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
def test_all_forms_of_a_path_that_clients_send_reach_the_model(
    server: ServerProcess, path: str
) -> None:
    assert post(server, path, '{"prompt":"Hi","max_tokens":1}').status_code == 200


@pytest.mark.inferred
@pytest.mark.parametrize("is_stream", [True, False])
def test_every_response_of_the_api_has_the_headers_of_the_edge(
    server: ServerProcess, is_stream: bool
) -> None:
    body = {"prompt": "Hi", "max_tokens": 1, "stream": is_stream}
    headers = httpx.post(
        server.run_url(), json=body, headers={"accept-encoding": "gzip, br"}, timeout=60
    ).headers
    assert re.fullmatch(r"[0-9a-f]{16}-[A-Z]{3}", headers["cf-ray"])
    assert {name: headers.get_list(name) for name in EDGE_HEADERS} == {
        name: [value] for name, value in EDGE_HEADERS.items()
    }
    assert headers["cache-control"].startswith("no-store")
    assert not headers.keys() & {"content-length", "content-encoding", "x-powered-by"}
