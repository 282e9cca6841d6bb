"""Tests that broken and hostile requests get a response, and that no slots or memory leak."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import httpx
import psutil
import pytest

from tests.server import ACCOUNT_ID, INT8, ServerProcess, server_process, wait_until

NUM_SLOTS = 2
RUN = f"/client/v4/accounts/{ACCOUNT_ID}/ai/run"
SURFACES = {
    "run": f"{RUN}/{INT8}",
    "model in body": RUN,
    "chat": f"/client/v4/accounts/{ACCOUNT_ID}/ai/v1/chat/completions",
    "completions": f"/client/v4/accounts/{ACCOUNT_ID}/ai/v1/completions",
    "gateway": f"/v1/{ACCOUNT_ID}/gateway/workers-ai/{INT8}",
    "compat": f"/v1/{ACCOUNT_ID}/gateway/compat/chat/completions",
}
NAMES = {"compat": f"workers-ai/{INT8}"}
NESTED = b"[" * 10_000 + b"]" * 10_000

NO_JSON = {
    "empty": b"",
    "words": b"not json",
    "cut off": b'{"prompt":',
    "NUL bytes": bytes(3),
    "a NUL in a string": b'{"prompt":"a\0b"}',
    "UTF-16": '{"prompt":"Hi"}'.encode("utf-16"),
    "gzip": b"\x1f\x8b\x08\0\0\0\0\0",
    "NaN": b'{"prompt":"Hi","temperature":NaN}',
    "10,000 nested arrays": NESTED,
    "10,000 nested objects": b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
}
ODD_JSON = {name: name.encode() for name in ("[]", "null", "1", '"x"', "true", "{}", "[[[]]]")}
# Contents of a JSON body, which follow the key `model`.
REFUSED_FIELDS = {
    "an infinity": '"prompt":"Hi","temperature":1e999',
    "a number of 6,000 digits": f'"prompt":"Hi","max_tokens":{"9" * 6000}',
    "a fraction of a token": '"prompt":"Hi","max_tokens":1.5',
    "minus zero tokens": '"prompt":"Hi","max_tokens":-0.0',
    "the same key twice": '"prompt":"Hi","prompt":5',
    "50,000 messages": f'"messages":[{",".join(["""{"role":"user","content":"x"}"""] * 50_000)}]',
    "a prompt of 5,000,000 characters": f'"prompt":"{"a b " * 1_250_000}"',
    "a prompt of 1,000,000 emoji": f'"prompt":"{"😀" * 1_000_000}"',
    "20 MB": f'"prompt":"{"x" * 20_000_000}"',
}
ACCEPTED = {
    "a lone surrogate": b'{"prompt":"\\ud800","max_tokens":1}',
    "lone surrogates in messages": (
        b'{"messages":[{"role":"\\ud800","content":"\\udfff"}],"max_tokens":1}'
    ),
    "an escaped NUL": b'{"prompt":"a\\u0000b","max_tokens":1}',
    "invalid UTF-8": b'{"prompt":"\xff\xfe","max_tokens":1}',
    "a byte order mark": b'\xef\xbb\xbf{"prompt":"Hi","max_tokens":1}',
    "20,000 unknown keys": json.dumps(
        {"prompt": "Hi", "max_tokens": 1} | {f"key{i}": i for i in range(20_000)}
    ).encode(),
}


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    """Starts a server. After the tests of this file, checks its slots and its log."""
    flags = ["--parallel", str(NUM_SLOTS), "--context-length", "1024"]
    with server_process(*flags) as running:
        yield running
        free_slots = "workers_ai_emulator_free_slots"
        wait_until(lambda: running.metric(free_slots) == NUM_SLOTS)
        assert running.run({"prompt": "Hi", "max_tokens": 1}).status_code == 200
        assert not [line for line in running.log if "Traceback" in line or " ERROR " in line]


def exchange(server: ServerProcess, data: bytes, *, ends: bool = False) -> bytes:
    """Sends bytes, and returns all bytes that the server sends until it closes the connection.

    `ends`: whether to close the sending side after the data.
    """
    url = httpx.URL(server.root)
    response = b""
    with socket.create_connection((url.host, url.port or 80), timeout=30) as connection:
        connection.sendall(data)
        if ends:
            connection.shutdown(socket.SHUT_WR)
        while part := connection.recv(2**16):
            response += part
    return response


def request(
    body: bytes = b'{"prompt":"Hi","max_tokens":1}',
    *headers: bytes,
    line: bytes = f"POST {RUN}/{INT8} HTTP/1.1".encode(),
    length: int | None = None,
) -> bytes:
    size = b"Content-Length: %d" % (len(body) if length is None else length)
    return b"\r\n".join([line, b"Host: localhost", b"Connection: close", size, *headers, b"", body])


def assert_is_refusal(response: httpx.Response) -> None:
    """Asserts that the response is a 4xx error in one of the service's formats."""
    assert 400 <= response.status_code < 500
    assert response.headers["content-type"] == "application/json"
    value = response.json()
    if value.get("name") == "AiGatewayError":  # an error of AI Gateway itself
        assert list(value)[:5] == ["success", "result", "messages", "error", "name"]
        assert value["httpCode"] == response.status_code
        return
    if "internalCode" in value:  # an error of Workers AI in AI Gateway
        assert list(value)[:3] == ["name", "internalCode", "httpCode"]
        return
    assert value.keys() >= {"errors", "success", "result", "messages"}
    assert value["success"] is False
    assert all(isinstance(error["code"], int) for error in value["errors"])


@pytest.mark.parametrize(
    "content", [pytest.param(b, id=n) for n, b in (NO_JSON | ODD_JSON).items()]
)
@pytest.mark.parametrize("surface", SURFACES)
def test_a_body_that_is_no_input_is_refused(
    server: ServerProcess, surface: str, content: bytes
) -> None:
    assert_is_refusal(httpx.post(server.root + SURFACES[surface], content=content, timeout=60))


@pytest.mark.parametrize("fields", [pytest.param(f, id=n) for n, f in REFUSED_FIELDS.items()])
@pytest.mark.parametrize("surface", SURFACES)
def test_a_body_beyond_the_limits_is_refused(
    server: ServerProcess, surface: str, fields: str
) -> None:
    content = f'{{"model":"{NAMES.get(surface, INT8)}",{fields}}}'.encode()
    response = httpx.post(server.root + SURFACES[surface], content=content, timeout=60)
    assert_is_refusal(response)
    assert "5007" not in response.text  # 5007: model not found


@pytest.mark.parametrize("content", [pytest.param(b, id=n) for n, b in ACCEPTED.items()])
def test_an_unusual_but_valid_body_gets_a_completion(server: ServerProcess, content: bytes) -> None:
    response = httpx.post(server.root + SURFACES["run"], content=content, timeout=60)
    assert (response.status_code, response.json()["success"]) == (200, True)


@pytest.mark.parametrize("path", [f"{RUN}/@cf/no/model", "/client/v4/nothing", f"{RUN}/{INT8}"])
def test_a_client_that_is_still_sending_receives_the_error(
    server: ServerProcess, path: str
) -> None:
    body = bytes(40_000_000)
    line = f"POST {path} HTTP/1.1".encode()
    assert exchange(server, request(body, line=line)).startswith(b"HTTP/1.1 4")


def test_large_bodies_leak_no_memory(server: ServerProcess) -> None:
    process, url = psutil.Process(server.process.pid), server.root + SURFACES["run"]
    content = f'{{{REFUSED_FIELDS["50,000 messages"]},{REFUSED_FIELDS["20 MB"][:15_000_000]}"}}'

    def most_resident(num_requests: int) -> int:
        """Sends large bodies, and returns the server's largest resident memory after a request.

        The largest value is used because the server may return freed memory to the system late.
        """
        sizes = []
        for _ in range(num_requests):
            assert_is_refusal(httpx.post(url, content=content, timeout=60))
            sizes.append(process.memory_info().rss)
        return max(sizes)

    before = most_resident(20)  # also fills the journal (the list of the last calls)
    assert most_resident(10) < before + 32 * 2**20


NOT_HTTP = {
    "zeros": bytes(1000),
    "a TLS hello": bytes.fromhex("16030100a5010000a10303") + bytes(160),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "an unknown method": request(line=b"FOO / HTTP/1.1"),
    "a method in small letters": request(line=b"post / HTTP/1.1"),
    "raw bytes in the path": request(line=b"POST /\xff\xfe HTTP/1.1"),
    "a negative length": request(length=-5),
    "two lengths": request(b"{}", b"Content-Length: 1"),
    "length and chunks": request(b"{}", b"Transfer-Encoding: chunked"),
    "a chunk without size": request(b"zz\r\n", b"Transfer-Encoding: chunked"),
    "a NUL in a header": request(b"{}", b"X: a\0b"),
}


@pytest.mark.parametrize("data", [pytest.param(d, id=n) for n, d in NOT_HTTP.items()])
def test_bytes_that_are_no_http_request_get_400(server: ServerProcess, data: bytes) -> None:
    response = exchange(server, data)
    assert response.startswith(b"HTTP/1.1 400 ")
    assert response.endswith(b"\r\n\r\nInvalid HTTP request received.")


LONG_HEADS = {
    "a path of 100 KB": request(line=b"GET /" + b"a" * 100_000 + b" HTTP/1.1"),
    "100 KB in a header": request(b"{}", b"X: " + b"a" * 100_000),
    "10,000 headers": request(b"{}", *(b"X-%d: a" % i for i in range(10_000))),
}


@pytest.mark.parametrize("data", [pytest.param(d, id=n) for n, d in LONG_HEADS.items()])
def test_a_head_of_more_than_64_kibibytes_gets_431(server: ServerProcess, data: bytes) -> None:
    response = exchange(server, data)
    assert response.startswith(b"HTTP/1.1 431 ")
    assert response.endswith(b"\r\n\r\nRequest Header Fields Too Large")


ODD_HTTP = {
    "60 KB in a header": request(b'{"prompt":"Hi","max_tokens":1}', b"X: " + b"a" * 60_000),
    "5000 headers": request(
        b'{"prompt":"Hi","max_tokens":1}', *(b"X-%d: a" % i for i in range(5000))
    ),
    "a token in Latin-1": request(
        b'{"prompt":"Hi","max_tokens":1}', b"Authorization: Bearer \xff\xfe"
    ),
    "HTTP/1.0": request(line=f"POST {RUN}/{INT8} HTTP/1.0".encode()),
    "a whole URL": request(line=f"POST https://api.cloudflare.com{RUN}/{INT8} HTTP/1.1".encode()),
    "an upgrade": request(
        b'{"prompt":"Hi","max_tokens":1}', b"Upgrade: h2c", b"HTTP2-Settings: AA"
    ),
    "two slashes": request(line=f"POST /{RUN.replace('/', '//')}//{INT8} HTTP/1.1".encode()),
    "several at once": request().replace(b"Connection: close\r\n", b"") * 3 + request(),
}


@pytest.mark.parametrize("data", [pytest.param(d, id=n) for n, d in ODD_HTTP.items()])
def test_unusual_http_requests_get_a_completion(server: ServerProcess, data: bytes) -> None:
    response = exchange(server, data)
    assert response.count(b" 200 OK\r\n") == data.count(b"POST ")


def test_a_content_length_that_is_too_short_cuts_the_body(server: ServerProcess) -> None:
    assert b'"code":3003' in exchange(server, request(length=10))


def test_a_client_that_disconnects_within_its_body_gets_no_response(server: ServerProcess) -> None:
    assert exchange(server, request(length=1000), ends=True) == b""


def test_incomplete_bodies_do_not_delay_other_requests(server: ServerProcess) -> None:
    url = httpx.URL(server.root)
    slow = [socket.create_connection((url.host, url.port or 80)) for _ in range(200)]
    try:
        for connection in slow:
            connection.sendall(request(length=1000))
        assert server.run({"prompt": "Hi", "max_tokens": 1}).status_code == 200
    finally:
        for connection in slow:
            connection.close()


@pytest.mark.parametrize(
    "query",
    [
        "page=-1",
        "page=x&per_page=1e999",
        "per_page=99999999999999999999",
        "search=%ff%00",
        "task=%5B%5D",
        "&".join(["a=1"] * 5000),
    ],
)
def test_the_list_of_models_accepts_any_query(server: ServerProcess, query: str) -> None:
    url = f"{server.base_url}/accounts/{ACCOUNT_ID}/ai/models/search?{query}"
    response = httpx.get(url)
    assert (response.status_code, response.json()["success"]) == (200, True)
