"""Tests requests of web pages: local and allowed pages get CORS headers, others are refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.server import ACCOUNT_ID, ServerProcess, server_process

pytestmark = pytest.mark.inferred  # the service sends no CORS headers

INPUTS = {"prompt": "Say yes.", "max_tokens": 4, "temperature": 0}
LOCAL_ORIGINS = [
    "http://localhost",
    "http://localhost:3000",
    "https://localhost:5173",
    "http://app.localhost:8787",
    "http://127.0.0.1:8787",
    "http://127.1.2.3",
    "http://[::1]:3000",
]
FOREIGN_ORIGINS = [
    "https://evil.example",
    "http://localhost.evil.example",
    "http://127.0.0.1.evil.example",
    "https://api.cloudflare.com",
    "http://192.168.1.5:3000",
    "null",
    "file://",
    "http://",
    "http://[",
    "",
]
SERVED_HOSTS = [
    "localhost",
    "LOCALHOST:8790",
    "localhost.:8790",
    "app.localhost",
    "127.0.0.1:1",
    "[::1]:8790",
    "192.168.1.5:8790",
    "api.cloudflare.com",
    "gateway.ai.cloudflare.com",
    "workers-binding.ai",
]
FOREIGN_HOSTS = [
    "evil.example",
    "evil.example:8790",
    "evil",
    "evil.local:8790",
    "127.0.0.1.nip.io",
    "localhost.evil.example",
    "cloudflare.com",
    "[::1",
    ".",
]


def post(server: ServerProcess, **headers: str) -> httpx.Response:
    return httpx.post(server.run_url(), json=INPUTS, headers=headers, timeout=60)


def preflight(server: ServerProcess, origin: str, **headers: str) -> httpx.Response:
    sent = {
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type",
        **headers,
    }
    return httpx.options(server.run_url(), headers=sent)


@pytest.mark.parametrize("origin", LOCAL_ORIGINS)
def test_a_local_page_may_read_the_response(server: ServerProcess, origin: str) -> None:
    response = post(server, origin=origin)
    assert (response.status_code, response.headers["access-control-allow-origin"]) == (200, origin)
    exposed = response.headers["access-control-expose-headers"].split(", ")
    assert {"cf-ai-req-id", "cf-ray", "x-emulator-model"} <= set(exposed)
    assert response.headers["vary"] == "Origin, Accept-Encoding"


@pytest.mark.parametrize("path", ["/run?version=3", f"/client/v4/accounts/{ACCOUNT_ID}/ai/run/x"])
def test_a_local_page_may_read_an_error(server: ServerProcess, path: str) -> None:
    response = httpx.post(server.root + path, headers={"origin": "http://localhost:3000"})
    assert response.status_code == 400
    assert response.headers["access-control-allow-origin"] == "http://localhost:3000"


@pytest.mark.parametrize("origin", LOCAL_ORIGINS)
def test_a_preflight_allows_local_pages_the_method_and_the_headers(
    server: ServerProcess, origin: str
) -> None:
    response = preflight(server, origin)
    assert (response.status_code, response.headers["access-control-allow-origin"]) == (200, origin)
    assert "POST" in response.headers["access-control-allow-methods"]
    assert response.headers["access-control-allow-headers"] == "authorization,content-type"
    assert "access-control-allow-private-network" not in response.headers


def test_a_preflight_allows_local_pages_private_network_access(server: ServerProcess) -> None:
    headers = {"access-control-request-private-network": "true"}
    response = preflight(server, "http://localhost:3000", **headers)
    assert response.headers["access-control-allow-private-network"] == "true"


@pytest.mark.parametrize("origin", FOREIGN_ORIGINS)
def test_a_foreign_page_is_refused(server: ServerProcess, origin: str) -> None:
    num_requests = server.metric("workers_ai_emulator_requests_total")
    for response in (post(server, origin=origin), preflight(server, origin)):
        assert_is_refused(response)
        assert "access-control-allow-origin" not in response.headers
    assert server.metric("workers_ai_emulator_requests_total") == num_requests


@pytest.mark.parametrize("host", SERVED_HOSTS)
def test_local_hosts_and_hosts_of_the_service_are_served(server: ServerProcess, host: str) -> None:
    assert post(server, host=host).status_code == 200


@pytest.mark.parametrize("host", FOREIGN_HOSTS)
@pytest.mark.parametrize("path", ["", "/_emulator/healthz", "/run"])
def test_a_foreign_host_is_refused(server: ServerProcess, host: str, path: str) -> None:
    """In a DNS rebinding attack, requests of the page have the page's own host name."""
    url = server.root + path if path else server.run_url()
    assert_is_refused(httpx.get(url, headers={"host": host}), "--allow-host")


def test_a_page_of_this_server_may_call_the_host_that_it_came_from(server: ServerProcess) -> None:
    host = "192.168.1.5:8790"
    assert post(server, host=host, origin=f"http://{host}").status_code == 200


def test_a_request_without_an_origin_gets_no_cors_headers(server: ServerProcess) -> None:
    response = post(server)
    assert not [name for name in response.headers if name.startswith("access-control")]
    assert response.headers["vary"] == "Accept-Encoding"


@pytest.fixture(scope="module")
def with_origins() -> Iterator[ServerProcess]:
    origins = ["--allow-origin", "https://App.example/", "--allow-origin", "null"]
    with server_process(*origins, "--parallel", "1", "--context-length", "512") as running:
        yield running


@pytest.mark.parametrize("origin", ["https://app.example", "null"])
def test_an_allowed_page_may_call(with_origins: ServerProcess, origin: str) -> None:
    response = post(with_origins, origin=origin)
    assert (response.status_code, response.headers["access-control-allow-origin"]) == (200, origin)
    assert preflight(with_origins, origin).status_code == 200


def test_the_host_of_an_allowed_page_is_served(with_origins: ServerProcess) -> None:
    assert post(with_origins, host="app.example").status_code == 200
    assert_is_refused(post(with_origins, host="other.example"), "--allow-host")
    assert_is_refused(post(with_origins, origin="http://app.example"))


@pytest.mark.parametrize("headers", [{"origin": "https://evil.example"}, {"host": "evil.example"}])
def test_an_asterisk_allows_every_page_and_host(headers: dict[str, str]) -> None:
    flags = ["--allow-origin", "*", "--parallel", "1", "--context-length", "512"]
    with server_process(*flags) as server:
        assert post(server, **headers).status_code == 200


def assert_is_refused(response: httpx.Response, flag: str = "--allow-origin") -> None:
    error: dict[str, Any] = response.json()
    assert (response.status_code, error["success"], error["errors"][0]["code"]) == (
        403,
        False,
        9109,
    )
    assert flag in error["errors"][0]["message"]
    assert response.headers["content-type"] == "application/json"
