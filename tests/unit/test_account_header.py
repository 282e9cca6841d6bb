"""Tests that the account's header is added to each request of a connection, and to nothing else."""

from __future__ import annotations

import pytest
from workers_ai_emulator.interception.account_header import AccountHeader

ACCOUNT = "a" * 32
HEADER = f"x-emulator-account: {ACCOUNT}\r\n".encode()

GET = b"GET / HTTP/1.1\r\nHost: x\r\n", b"\r\n"
POST = b"POST / HTTP/1.1\r\nContent-Length: 9\r\n", b"\r\n\r\nGET /\r\n"
CHUNKED = (
    b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip, Chunked\r\n",
    b"\r\n5;a=b\r\n\r\nGET\r\n0A\r\n0123456789\r\n0\r\nx-trailer: 1\r\n\r\n",
)


def changed(data: bytes, size: int) -> bytes:
    header = AccountHeader(ACCOUNT)
    return b"".join(header.feed(data[at : at + size]) for at in range(0, len(data), size))


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_each_request_of_a_connection_gets_the_header(size: int) -> None:
    requests = [GET, POST, CHUNKED, GET]
    data = b"".join(head + rest for head, rest in requests)
    assert changed(data, size) == b"".join(head + HEADER + rest for head, rest in requests)


def test_the_header_of_the_program_comes_first() -> None:
    own = b"GET / HTTP/1.1\r\nx-emulator-account: own\r\n"
    assert changed(own + b"\r\n", 1000) == own + HEADER + b"\r\n"


@pytest.mark.parametrize(
    "data",
    [
        b"x" * 70_000 + b"\r\n\r\nGET / HTTP/1.1\r\n\r\n",
        b"\r\n".join([b"PUT / HTTP/1.1", b"transfer-encoding: chunked", b"", b"no size", b"", b""]),
    ],
    ids=["no head", "no chunk size"],
)
def test_the_rest_of_a_stream_that_is_not_http_passes_unchanged(data: bytes) -> None:
    assert changed(data, 1000).replace(HEADER, b"") == data


def test_a_body_is_passed_on_as_it_arrives() -> None:
    header = AccountHeader(ACCOUNT)
    header.feed(b"POST / HTTP/1.1\r\nContent-Length: 1000\r\n\r\n")
    assert header.feed(b"abc") == b"abc"
