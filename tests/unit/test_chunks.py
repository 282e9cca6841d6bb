"""Tests the HTTP chunks of responses, to Workers and to other clients, without a socket."""

from __future__ import annotations

import asyncio

import httptools
import pytest
import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.server import ServerState
from workers_ai_emulator.server.chunks import is_from_worker
from workers_ai_emulator.server.protocol import Protocol

WORKER = b"POST / HTTP/1.1\r\nContent-Length: 0\r\nHost: workers-binding.ai\r\n\r\n"
OTHER = b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: curl\r\nContent-Length: 0\r\n\r\n"
EVENTS = [f'data: {{"response":"{text}"}}\n\n'.encode() for text in ("é", "🍎" * 2000, "x")]


class Transport(asyncio.Transport):
    """A transport that stores the bytes that the HTTP protocol writes."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.is_closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.writes.append(bytes(data))

    def close(self) -> None:
        self.is_closed = True

    def is_closing(self) -> bool:
        return self.is_closed

    @property
    def body(self) -> bytes:
        """The stored bytes after the response head."""
        return b"".join(self.writes).partition(b"\r\n\r\n")[2]


def application(*messages: Message, headers: dict[bytes, bytes] | None = None) -> ASGIApp:
    """Returns an ASGI application that sends a head and these messages for every request."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        head = {"status": 200, "headers": list((headers or {}).items())}
        for message in ({"type": "http.response.start", **head}, *messages):
            await send(message)

    return app


def part(body: bytes, *, more_body: bool = True) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": more_body}


def response_of(app: ASGIApp, request: bytes) -> Transport:
    """Returns the transport after the application has responded to the request."""

    async def respond() -> Transport:
        transport = Transport()
        config = uvicorn.Config(app, log_config=None, ws="none", lifespan="off")
        protocol = Protocol(config, ServerState(), {})
        protocol.connection_made(transport)
        protocol.data_received(request)
        await asyncio.gather(*protocol.tasks)
        return transport

    return asyncio.run(respond())


STREAM = application(*map(part, EVENTS), part(b"", more_body=False))


def test_32_bytes_precede_each_event_for_a_worker() -> None:
    rest = response_of(STREAM, WORKER).body
    for event in EVENTS:
        before, _, rest = rest.partition(event)
        assert len(before) == 32
    assert rest == b"\r\n0\r\n\r\n"


def test_other_clients_get_uvicorn_s_chunks() -> None:
    chunks = [b"%x\r\n%b\r\n" % (len(event), event) for event in EVENTS]
    assert response_of(STREAM, OTHER).body == b"".join(chunks) + b"0\r\n\r\n"


def test_the_head_does_not_depend_on_the_client() -> None:
    worker, other = response_of(STREAM, WORKER), response_of(STREAM, OTHER)
    assert worker.writes[0] == other.writes[0]
    assert b"\r\ntransfer-encoding: chunked\r\n" in worker.writes[0]


@pytest.mark.parametrize(
    "messages", [[part(b"{}", more_body=False)], [part(b"{}"), part(b"", more_body=False)]]
)
def test_a_chunked_body_for_a_worker_ends(messages: list[Message]) -> None:
    assert response_of(application(*messages), WORKER).body == b"%030x\r\n{}\r\n0\r\n\r\n" % 2


def test_a_worker_gets_a_body_with_a_length_without_chunks() -> None:
    app = application(part(b"{}", more_body=False), headers={b"content-length": b"2"})
    assert response_of(app, WORKER).body == b"{}"


def test_a_stream_that_breaks_off_for_a_worker_has_no_end() -> None:
    transport = response_of(application(part(b"data: {")), WORKER)
    assert transport.body == b"%030x\r\ndata: {" % 7
    assert transport.is_closed


def test_an_http_parser_reads_a_worker_s_chunks() -> None:
    bodies: list[bytes] = []

    class Reader:
        def on_body(self, body: bytes) -> None:
            bodies.append(body)

    httptools.HttpResponseParser(Reader()).feed_data(b"".join(response_of(STREAM, WORKER).writes))
    assert b"".join(bodies) == b"".join(EVENTS)


@pytest.mark.parametrize(
    "names",
    [
        "content-length host content-type cf-consn-model-id cf-consn-sdk-version",
        "transfer-encoding host content-encoding cf-consn-sdk-version",
        "content-length host mf-binding mf-url",
        "content-length host content-type",
        "content-length host content-type user-agent cf-worker",
    ],
    ids=["binding", "old SDK", "Miniflare's remote proxy", "fetch", "fetch of an SDK"],
)
def test_a_worker_s_request_is_recognised(names: str) -> None:
    assert is_from_worker(names.encode().split())


@pytest.mark.parametrize(
    "names",
    [
        "",
        "host",
        "host user-agent accept content-length content-type",
        "host connection content-type accept user-agent accept-encoding content-length",
        "host accept-encoding transfer-encoding",
        "content-length host user-agent content-type",
        "content-length host content-type x-forwarded-for",
        "host content-length cf-worker",
    ],
    ids=["none", "GET", "curl", "node", "no agent", "Java", "proxy", "Host first"],
)
def test_another_client_s_request_is_recognised(names: str) -> None:
    assert not is_from_worker(names.encode().split())
