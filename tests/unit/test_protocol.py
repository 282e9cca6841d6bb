"""Tests what the server waits for on a connection, and the time limit of each wait."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState
from workers_ai_emulator.server.protocol import Protocol, TimeLimits, Wait
from workers_ai_emulator.wire.disconnect import on_disconnect

HEAD = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\n"
REQUEST = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
LIMITS = TimeLimits(silence=1, head=2, body=10, pause=3, request=4, reading=5)


class Transport(asyncio.Transport):
    """A transport without a socket. Stores the sent bytes, and how the connection was ended."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = b""
        self.num_unsent = 0  # how many of the sent bytes the client has not read
        self.end: str | None = None

    def write(self, data: Any) -> None:
        self.sent += data

    def close(self) -> None:
        self.end = "closed"

    def abort(self) -> None:
        self.end = "aborted"

    def is_closing(self) -> bool:
        return self.end is not None

    def get_write_buffer_size(self) -> int:
        return self.num_unsent

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class App:
    """An application that responds when `respond` is set, and counts earlier disconnects."""

    def __init__(self) -> None:
        self.respond = asyncio.Event()
        self.num_disconnects = 0
        self.headers = [(b"content-length", b"2")]
        self.scope: Scope = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        while (message := await receive()).get("more_body"):
            pass
        if message["type"] == "http.disconnect":
            self._count()
            return
        async with on_disconnect(receive, self._count):
            await self.respond.wait()
        await send({"type": "http.response.start", "status": 200, "headers": self.headers})
        await send({"type": "http.response.body", "body": b"o", "more_body": True})
        await send({"type": "http.response.body", "body": b"k"})

    def _count(self) -> None:
        self.num_disconnects += 1


class Connection:
    """A connection in memory: an HTTP protocol with its transport and its application.

    The event loop runs only during the method `run`.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.app = App()
        self.transport = Transport()
        config = uvicorn.Config(self.app, log_config=None)
        config.load()
        self.protocol = Protocol(config, ServerState(), {}, loop)
        self.protocol.connection_made(self.transport)

    def receive(self, data: bytes) -> None:
        self.protocol.data_received(data)
        self.run()

    def run(self) -> None:
        self.loop.run_until_complete(asyncio.sleep(0.001))

    def respond(self) -> None:
        self.app.respond.set()
        self.run()

    def is_overdue(self, after_s: float) -> bool:
        return self.protocol.is_overdue(LIMITS, time.monotonic() + after_s)


@pytest.fixture
def connection() -> Iterator[Connection]:
    loop = asyncio.new_event_loop()
    connection = Connection(loop)
    yield connection
    if connection.protocol.parser:
        connection.protocol.connection_lost(None)
    connection.respond()
    loop.close()


def test_a_new_connection_waits_for_the_server_to_read_its_first_bytes(
    connection: Connection,
) -> None:
    assert connection.protocol.wait is Wait.SERVER
    assert not connection.is_overdue(1e6)


def test_the_server_waits_for_head_body_itself_and_the_next_request(connection: Connection) -> None:
    protocol = connection.protocol
    waits: list[Wait] = []
    for data in (HEAD[:1], HEAD[1:-1], HEAD[-1:], b"12", b"34"):
        connection.receive(data)
        waits.append(protocol.wait)
    assert waits == [Wait.HEAD, Wait.HEAD, Wait.BODY, Wait.BODY, Wait.SERVER]
    connection.respond()
    waits.append(protocol.wait)
    connection.receive(HEAD[:1])
    waits.append(protocol.wait)
    assert waits[5:] == [Wait.REQUEST, Wait.HEAD]


def test_the_limit_of_the_head_counts_from_its_first_byte(connection: Connection) -> None:
    connection.receive(HEAD[:5])
    first = time.monotonic()
    connection.receive(HEAD[5:9])
    assert not connection.protocol.is_overdue(LIMITS, first + 1.9)
    assert connection.protocol.is_overdue(LIMITS, first + 2.1)


def test_the_limit_of_a_pause_counts_from_the_last_part_of_the_body(connection: Connection) -> None:
    connection.receive(HEAD + b"1")
    assert not connection.is_overdue(2.9)
    assert connection.is_overdue(3.1)


def test_a_body_in_small_parts_has_a_limit_as_a_whole(connection: Connection) -> None:
    connection.receive(HEAD)
    connection.protocol._began[Wait.HEAD] -= 9.9
    connection.receive(b"1")
    assert not connection.is_overdue(0)
    assert connection.is_overdue(0.2)


def test_the_server_has_no_limit_while_it_works_on_the_response(connection: Connection) -> None:
    connection.receive(HEAD + b"1234")
    assert not connection.is_overdue(1e6)


def test_empty_lines_between_requests_do_not_extend_the_limit(connection: Connection) -> None:
    connection.receive(HEAD + b"1234")
    connection.respond()
    connection.protocol._began[Wait.REQUEST] -= 3.9
    connection.receive(b"\r\n")
    assert connection.protocol.wait is Wait.REQUEST
    assert connection.is_overdue(0.2)


def test_the_limit_of_reading_counts_while_the_buffers_are_full(connection: Connection) -> None:
    connection.receive(HEAD + b"1234")
    connection.protocol.pause_writing()
    assert connection.protocol.wait is Wait.READING
    assert connection.is_overdue(5.1)
    connection.protocol.resume_writing()
    assert not connection.is_overdue(5.1)


def test_the_limit_of_reading_counts_from_the_last_read(connection: Connection) -> None:
    connection.receive(HEAD + b"1234")
    connection.protocol.pause_writing()
    for num_unsent in (3000, 2000, 2000):
        connection.protocol._began[Wait.READING] -= 3
        connection.transport.num_unsent = num_unsent
        connection.protocol.observe_reading()
    assert not connection.is_overdue(1.9)
    assert connection.is_overdue(2.1)


def test_a_closing_connection_has_the_limit_of_reading(connection: Connection) -> None:
    connection.receive(REQUEST[:-2] + b"connection: close\r\n\r\n")
    connection.respond()
    assert connection.transport.end == "closed"
    assert connection.protocol.is_ending  # the client reads the response at once, as far as known
    connection.protocol._began[Wait.READING] -= 1000
    connection.transport.num_unsent = 1
    connection.protocol.observe_reading()
    assert not connection.protocol.is_ending
    assert connection.protocol.wait is Wait.READING
    assert not connection.is_overdue(4.9)
    assert connection.is_overdue(5.1)
    connection.protocol.close(HTTPStatus.REQUEST_TIMEOUT)
    assert connection.transport.end == "aborted"
    assert connection.transport.sent.endswith(b"\r\n\r\nok")
    assert connection.protocol.is_ending


def test_a_client_that_waits_for_100_continue_is_not_overdue(connection: Connection) -> None:
    head = HEAD.replace(b"host", b"expect: 100-continue\r\nhost")
    connection.protocol.data_received(head)  # the application has not read the body yet
    waits = [connection.protocol.wait]
    connection.run()
    assert connection.transport.sent == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert [*waits, connection.protocol.wait] == [Wait.SERVER, Wait.BODY]


def test_a_second_request_waits_for_the_server_while_the_first_one_runs(
    connection: Connection,
) -> None:
    connection.receive(HEAD + b"1234" + HEAD)
    waits = [connection.protocol.wait]
    connection.respond()
    assert [*waits, connection.protocol.wait] == [Wait.SERVER, Wait.BODY]


def test_the_limits_of_a_second_request_begin_after_the_first_one(connection: Connection) -> None:
    connection.receive(HEAD + b"1234" + HEAD)
    connection.protocol._began[Wait.HEAD] -= 1000
    connection.protocol._began[Wait.BODY] -= 1000
    connection.respond()
    assert connection.protocol.wait is Wait.BODY
    assert not connection.is_overdue(2.9)


def test_the_first_of_two_requests_ends_when_the_client_disconnects(connection: Connection) -> None:
    connection.receive(HEAD + b"1234" + HEAD)
    connection.protocol.connection_lost(None)
    connection.run()
    assert connection.app.num_disconnects == 1


@pytest.mark.parametrize("data", [HEAD[:5], HEAD, HEAD + b"123"])
def test_an_incomplete_request_gets_a_response_before_the_end(
    connection: Connection, data: bytes
) -> None:
    connection.receive(data)
    connection.protocol.close(HTTPStatus.REQUEST_TIMEOUT)
    head, _, text = connection.transport.sent.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    assert b"connection: close" in head
    assert text == b"Request Timeout"
    assert connection.transport.end == "closed"


def test_the_application_receives_a_disconnect_when_the_connection_ends(
    connection: Connection,
) -> None:
    connection.receive(HEAD)
    connection.protocol.close(HTTPStatus.REQUEST_TIMEOUT)
    connection.protocol.connection_lost(None)
    connection.run()
    assert connection.app.num_disconnects == 1


def test_an_idle_connection_ends_without_a_response(connection: Connection) -> None:
    connection.receive(HEAD + b"1234")
    connection.respond()
    num_sent = len(connection.transport.sent)
    connection.protocol.close(HTTPStatus.REQUEST_TIMEOUT)
    assert len(connection.transport.sent) == num_sent
    assert connection.transport.end == "closed"


def test_a_connection_whose_client_does_not_read_is_aborted(connection: Connection) -> None:
    connection.receive(HEAD + b"1234")
    connection.protocol.pause_writing()
    connection.protocol.close(HTTPStatus.REQUEST_TIMEOUT)
    assert connection.transport.end == "aborted"


def test_a_reset_after_the_client_has_disconnected_does_nothing(connection: Connection) -> None:
    connection.receive(HEAD)
    connection.protocol.connection_lost(None)
    connection.protocol.reset()  # the transport has no socket any more
    connection.run()
    assert connection.transport.end == "closed"
    assert connection.app.num_disconnects == 1


# ── HTTP/1.0 and absolute targets ───────────────────────────────────────────────────────────────


@pytest.mark.parametrize("headers", [[], [(b"connection", b"keep-alive")]], ids=str)
def test_a_client_of_http_1_0_gets_no_chunks(
    connection: Connection, headers: list[tuple[bytes, bytes]]
) -> None:
    connection.app.headers = headers
    connection.receive(b"GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n")
    connection.respond()
    head, _, body = connection.transport.sent.partition(b"\r\n\r\n")
    assert (body, connection.transport.end) == (b"ok", "closed")
    assert b"transfer-encoding" not in head
    assert head.count(b"connection: ") == head.count(b"connection: close") == 1


def test_a_response_with_a_length_is_the_same_for_a_client_of_http_1_0(
    connection: Connection,
) -> None:
    connection.receive(b"GET / HTTP/1.0\r\n\r\n")
    connection.respond()
    assert connection.transport.sent.endswith(b"content-length: 2\r\nconnection: close\r\n\r\nok")


def test_a_client_of_http_1_1_gets_chunks(connection: Connection) -> None:
    connection.app.headers = []
    connection.receive(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
    connection.respond()
    assert connection.transport.sent.endswith(b"\r\n\r\n1\r\no\r\n1\r\nk\r\n0\r\n\r\n")
    assert connection.transport.end is None


@pytest.mark.parametrize(
    ("target", "host", "path", "query"),
    [
        ("/a%2Fb?c=1", "x", "/a/b", "c=1"),
        ("http://evil.example/a?c=1", "evil.example", "/a", "c=1"),
        ("http://evil.example:81", "evil.example:81", "/", ""),
        ("http://[::1]:81/a", "[::1]:81", "/a", ""),
        ("http://user@evil.example/a", "evil.example", "/a", ""),
    ],
)
def test_the_host_of_an_absolute_target_replaces_the_header(
    connection: Connection, target: str, host: str, path: str, query: str
) -> None:
    connection.receive(f"GET {target} HTTP/1.1\r\naccept: */*\r\nhost: x\r\n\r\n".encode())
    scope = connection.app.scope
    assert [value for name, value in scope["headers"] if name == b"host"] == [host.encode()]
    assert (scope["path"], scope["query_string"].decode()) == (path, query)


@pytest.mark.parametrize("target", ["http:///a", "x.example:80", "http://a:x/"])
def test_a_target_without_a_host_is_malformed(connection: Connection, target: str) -> None:
    connection.receive(f"GET {target} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
    assert connection.transport.sent.startswith(b"HTTP/1.1 400 ")


# ── the size of a head ──────────────────────────────────────────────────────────────────────────

TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\n"


def head_of(num_bytes: int) -> bytes:
    """Returns the head of a GET request with this size."""
    return REQUEST[:-2] + b"x: %b\r\n\r\n" % (b"a" * (num_bytes - len(REQUEST) - 5))


def is_refused(connection: Connection) -> bool:
    return connection.transport.sent.endswith(b"Request Header Fields Too Large")


@pytest.mark.parametrize("num_bytes", [1, 1000, 2**18], ids=str)
@pytest.mark.parametrize(
    "start",
    [REQUEST[:-2] + b"x: ", b"GET /", REQUEST[:-2] + b"x: 1\r\n" * 6000],
    ids=["header", "path", "headers"],
)
def test_an_endless_head_gets_431(connection: Connection, start: bytes, num_bytes: int) -> None:
    connection.protocol.data_received(start + b"a" * (2**16 - 1000 - len(start)))
    assert connection.transport.end is None
    for _ in range(1 + 1000 // num_bytes):
        connection.protocol.data_received(b"a" * num_bytes)
    assert connection.transport.sent.startswith(TOO_LARGE)
    assert connection.transport.end == "closed"


def test_the_limit_of_a_head_is_64_kibibytes(connection: Connection) -> None:
    connection.app.respond.set()
    connection.receive(head_of(2**16))
    assert connection.transport.sent.endswith(b"\r\n\r\nok")
    connection.receive(head_of(2**16 + 1)[:-1])
    assert connection.transport.end is None
    connection.receive(b"\n")
    assert is_refused(connection)
    assert connection.transport.end == "closed"


def test_a_body_may_follow_a_head_of_64_kibibytes(connection: Connection) -> None:
    connection.app.respond.set()
    length = b"content-length: 4\r\n"
    head = head_of(2**16 - len(length)).replace(b"host", length + b"host")
    assert len(head) == 2**16
    connection.receive(head)
    connection.receive(b"1234")
    assert connection.transport.sent.endswith(b"\r\n\r\nok")


def test_bodies_and_other_requests_do_not_count_for_the_limit(connection: Connection) -> None:
    body = b"1" * 200_000
    post = HEAD.replace(b"length: 4", b"length: %d" % len(body)) + body
    connection.app.respond.set()
    for data in [post, post, head_of(60_000), post + head_of(60_000), REQUEST * 5000]:
        connection.receive(data)
        assert connection.transport.end is None, data[:20]
    connection.run()
    assert connection.protocol.wait in (Wait.REQUEST, Wait.SERVER)


def test_a_long_head_after_another_request_gets_431(connection: Connection) -> None:
    connection.app.respond.set()
    connection.receive(REQUEST)
    connection.receive(REQUEST[:-2] + b"x: " + b"a" * 2**16)
    assert is_refused(connection)


def test_a_long_head_while_a_request_runs_ends_the_connection(connection: Connection) -> None:
    connection.receive(REQUEST + REQUEST[:-2] + b"x: " + b"a" * 2**17)
    assert connection.transport.end == "closed"
    assert connection.transport.sent == b""  # the response to the first request must come first


def test_endless_trailers_after_chunks_get_431(connection: Connection) -> None:
    head = HEAD.replace(b"content-length: 4", b"transfer-encoding: chunked")
    connection.receive(head + b"1\r\na\r\n" * 20_000 + b"0\r\nx: ")
    assert connection.transport.end is None
    connection.receive(b"a" * 2**17)
    assert is_refused(connection)


def test_many_requests_with_the_header_upgrade_are_parsed_at_once(connection: Connection) -> None:
    data = (REQUEST[:-2] + b"connection: upgrade\r\nupgrade: h2c\r\n\r\n") * 2000
    connection.protocol.parser.feed_data(data)
    assert len(connection.protocol.pipeline) == 1999
