"""Tests connections of silent, slow and very many clients: other clients still get responses."""

from __future__ import annotations

import json
import queue
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import httpx
import pytest
from workers_ai_emulator.models.catalog import CATALOG
from workers_ai_emulator.server.protocol import Protocol, TimeLimits
from workers_ai_emulator.server.server import Server, listen
from workers_ai_emulator.settings import Settings

from tests.server import (
    ACCOUNT_ID,
    INT8,
    ServerProcess,
    server_process,
    wait_until,
)

BODY = json.dumps({"prompt": "Hello"}).encode()
HEAD = (
    f"POST /client/v4/accounts/{ACCOUNT_ID}/ai/run/{INT8} HTTP/1.1\r\nHost: localhost\r\n"
    f"Content-Length: {len(BODY)}\r\n\r\n"
).encode()
LONG_HEAD = HEAD.replace(b"Length: ", b"Length: 9")
HEALTH_CHECK = b"GET /_emulator/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
LIMITS = TimeLimits(silence=0.2, head=0.2, body=0.6, pause=0.3, request=0.3, reading=0.3)

Connect = Callable[[bytes], socket.socket]


@contextmanager
def running(time_limits: TimeLimits) -> Iterator[tuple[Server, int]]:
    """Runs a server with the backend `scripted` in a thread. Yields the server and its port."""
    urls: queue.Queue[str] = queue.Queue()
    settings = Settings(port=0, backend="scripted")
    listener = listen(settings)
    server = Server(settings, CATALOG, listener, urls.put, time_limits)
    thread = threading.Thread(target=server.serve_until_stopped)
    thread.start()
    try:
        yield server, httpx.URL(urls.get(timeout=30)).port or 80
    finally:
        server.should_exit = True
        thread.join(10)
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def connect() -> Iterator[Connect]:
    """Yields a function that connects to a server with short time limits, and sends bytes."""
    with ExitStack() as stack:
        _, port = stack.enter_context(running(LIMITS))

        def connect(data: bytes) -> socket.socket:
            connection = socket.create_connection(("127.0.0.1", port), timeout=20)
            stack.enter_context(connection)
            connection.sendall(data)
            return connection

        yield connect


def rest_of(connection: socket.socket) -> bytes:
    """Returns all bytes that the server sends until it closes the connection."""
    parts = []
    while part := connection.recv(2**16):
        parts.append(part)
    return b"".join(parts)


# ── time limits ─────────────────────────────────────────────────────────────────────────────────


def test_a_silent_connection_is_closed(connect: Connect) -> None:
    assert rest_of(connect(b"")) == b""


@pytest.mark.parametrize("data", [HEAD[:1], HEAD[:-2], HEAD, HEAD + BODY[:-1]])
def test_half_a_request_gets_408(connect: Connect, data: bytes) -> None:
    response = rest_of(connect(data))
    assert response.startswith(b"HTTP/1.1 408 ")
    assert response.endswith(b"\r\n\r\nRequest Timeout")


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\nx: ", LONG_HEAD])
def test_a_request_in_small_parts_gets_408(connect: Connect, data: bytes) -> None:
    connection = connect(data)
    connection.settimeout(0.05)
    deadline = time.monotonic() + 20
    response = b""
    while not response and time.monotonic() < deadline:
        try:
            connection.sendall(b" ")
            response = connection.recv(2**16)
        except TimeoutError:
            continue
    assert response.startswith(b"HTTP/1.1 408 ")


def test_an_idle_connection_is_closed_after_its_response(connect: Connect) -> None:
    response = rest_of(connect(HEAD + BODY))
    assert response.startswith(b"HTTP/1.1 200 ")
    assert response.count(b"HTTP/1.1") == 1


def test_a_connection_whose_client_does_not_read_is_closed() -> None:
    with running(LIMITS) as (server, port), socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**10)
        connection.connect(("127.0.0.1", port))
        head = b"GET /_emulator/page/page.js HTTP/1.1\r\nHost: localhost\r\n\r\n"
        requests = threading.Thread(target=send_all, args=(connection, head * 5000))
        requests.start()
        wait_until(lambda: server.server_state.total_requests > 0)
        wait_until(lambda: len(server.server_state.connections) == 0)
        connection.close()
        requests.join()


# A request whose response is the last one on its connection.
LAST_RUN = HEAD.replace(b"Host", b"Connection: close\r\nHost") + BODY
LONG_ANSWER = "x" * 2**23  # does not fit into the operating system's buffers of a connection


def connect_without_reading(port: int) -> socket.socket:
    """Connects to a server, and sends a request whose response the client will not read."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**10)
    connection.settimeout(20)
    connection.connect(("127.0.0.1", port))
    connection.sendall(LAST_RUN)
    return connection


def closing(server: Server) -> list[Protocol]:
    """Returns the connections that are closing, and whose clients have not read everything."""
    protocols = [p for p in [*server.server_state.connections] if isinstance(p, Protocol)]
    return [
        p for p in protocols if p.transport.is_closing() and p.transport.get_write_buffer_size()
    ]


def test_a_closing_connection_whose_client_does_not_read_is_closed() -> None:
    with running(LIMITS) as (server, port):
        set_script(port, LONG_ANSWER)
        with connect_without_reading(port):
            wait_until(lambda: server.server_state.total_requests == 2)  # the script and the run
            wait_until(lambda: len(server.server_state.connections) == 0)


def test_closing_connections_whose_clients_do_not_read_leave_room_for_others() -> None:
    with running(TimeLimits()) as (server, port), ExitStack() as connections:
        set_script(port, LONG_ANSWER)
        for _ in range(3):
            connections.enter_context(connect_without_reading(port))
        wait_until(lambda: sum(not p.is_ending for p in closing(server)) == 3)
        set_script(port, "It is done.")
        server._connections._limit = 3
        with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
            connection.sendall(LAST_RUN)
            assert b"It is done." in rest_of(connection)
        wait_until(lambda: len(closing(server)) == len(server.server_state.connections) == 2)


def set_script(port: int, answer: str) -> None:
    url = f"http://127.0.0.1:{port}/_emulator/script"
    httpx.post(url, json=answer, headers={"connection": "close"}).raise_for_status()


def send_all(connection: socket.socket, data: bytes) -> None:
    try:
        connection.sendall(data)
    except OSError:
        return  # the server has closed the connection


# ── health checks ───────────────────────────────────────────────────────────────────────────────


@contextmanager
def blocked(server: Server) -> Iterator[None]:
    """Blocks the server's event loop during the `with` block."""
    is_blocked, end = threading.Event(), threading.Event()

    def block() -> None:
        is_blocked.set()
        end.wait(20)

    server._loop.call_soon_threadsafe(block)
    assert is_blocked.wait(20)
    try:
        yield
    finally:
        end.set()


@pytest.mark.parametrize("path", ["healthz", "readyz"])
def test_a_health_check_gets_a_response_while_the_event_loop_is_blocked(path: str) -> None:
    with running(TimeLimits()) as (server, port), blocked(server):
        url = f"http://127.0.0.1:{port}/_emulator/{path}"
        response = httpx.get(url, timeout=10)
        assert response.status_code == 200
        assert response.headers["server"] == "cloudflare"
        assert "date" in response.headers
        for _ in range(30):
            server._services.heartbeat.tick()
        response = httpx.get(url, timeout=10)
        assert response.status_code == 503
        assert response.json()["status"].startswith("the event loop has been blocked for 3")


def test_the_guard_against_foreign_pages_checks_health_checks_too(connect: Connect) -> None:
    check = HEALTH_CHECK.replace(b"localhost", b"attacker.example")
    assert rest_of(connect(check)).startswith(b"HTTP/1.1 403 ")


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(HEALTH_CHECK.replace(b"healthz ", b"healthz?a=1 "), id="a query"),
        pytest.param(HEALTH_CHECK.replace(b"/_emulator", b"//_emulator"), id="two slashes"),
        pytest.param(HEALTH_CHECK * 2, id="two requests in one packet"),
    ],
)
def test_an_unusual_health_check_gets_the_same_response(connect: Connect, data: bytes) -> None:
    response = rest_of(connect(data))
    assert response.count(b'"status":"alive"') == data.count(b"GET")


def test_a_health_check_in_two_packets_gets_a_response(connect: Connect) -> None:
    connection = connect(HEALTH_CHECK[:20])
    connection.sendall(HEALTH_CHECK[20:])
    assert b'"status":"alive"' in rest_of(connection)


# ── unusual requests ────────────────────────────────────────────────────────────────────────────

UPGRADE = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
LAST_REQUEST = HEALTH_CHECK.replace(b"Host", b"Connection: close\r\nHost")
CHUNKED = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (BODY[:3], BODY[3:], b""))


@pytest.mark.parametrize("is_split", [False, True], ids=["one packet", "a packet for each byte"])
@pytest.mark.parametrize("is_chunked", [False, True], ids=["with a length", "chunked"])
def test_the_body_of_a_request_for_an_upgrade_is_read(
    scripted_server: ServerProcess, is_chunked: bool, is_split: bool
) -> None:
    head = HEAD.replace(b"Host:", UPGRADE.encode() + b"Host:")
    if is_chunked:
        length = f"Content-Length: {len(BODY)}".encode()
        head = head.replace(length, b"Transfer-Encoding: chunked")
    request = head + (CHUNKED if is_chunked else BODY)
    with connect_to(scripted_server, b"") as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for part in [bytes([byte]) for byte in request] if is_split else [request]:
            connection.sendall(part)
        connection.sendall(LAST_REQUEST)
        response = rest_of(connection)
    assert response.count(b"HTTP/1.1 200 OK") == 2
    assert b"This is a scripted answer to: Hello" in response
    assert b'"status":"alive"' in response


def test_the_body_of_a_request_for_an_upgrade_is_no_request_of_its_own() -> None:
    inner = HEAD.replace(b"/client/v4/", b"/run?version=3&x=") + BODY
    outer = (
        "POST /run?version=3 HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: 203.0.113.7\r\n"
        f"{UPGRADE}Content-Length: {len(inner)}\r\n\r\n"
    ).encode()
    with (
        server_process("--backend", "scripted", "--api-token", "secret") as server,
        connect_to(server, outer) as connection,
    ):
        time.sleep(0.1)  # so that the server reads the head and the body separately
        connection.sendall(inner + LAST_REQUEST)
        response = rest_of(connection)
    assert response.count(b"HTTP/1.1 ") == 2
    assert response.startswith(b"HTTP/1.1 400 ")
    assert b'"status":"alive"' in response


@pytest.mark.parametrize("value", ["unknown", "_hidden", "1.2.3.4, unknown", "a b"])
@pytest.mark.parametrize("path", ["/_emulator/healthz", "/_emulator/metrics"])
def test_no_value_of_x_forwarded_for_is_an_error(
    scripted_server: ServerProcess, path: str, value: str
) -> None:
    response = httpx.get(scripted_server.root + path, headers={"x-forwarded-for": value})
    assert response.status_code == 200


# ── the number of connections ───────────────────────────────────────────────────────────────────

# Headers for a body, which these tests do not send.
ANNOUNCED_BODIES = [b"Content-Length: 5", b"Transfer-Encoding: chunked", b"content-length : 5"]


@pytest.mark.parametrize(
    "data",
    [
        *(b"", HEAD[:-2], HEAD, HEAD + BODY, HEALTH_CHECK[:-1]),
        *(HEALTH_CHECK.replace(b"Host", header + b"\r\nHost") for header in ANNOUNCED_BODIES),
    ],
)
def test_idle_connections_beyond_the_limit_leave_room_for_others(data: bytes) -> None:
    with (
        server_process("--backend", "scripted", max_files=128) as server,
        ExitStack() as connections,
    ):
        for _ in range(220):
            connections.enter_context(connect_to(server, data))
        for _ in range(20):
            assert httpx.get(f"{server.root}/_emulator/healthz", timeout=20).status_code == 200
            assert server.run({"prompt": "Hello"}).status_code == 200
        server.wait_for_line("connections are open")


def test_a_connection_beyond_the_limit_gets_503_if_all_others_wait_for_the_server() -> None:
    fault = {"fault": "slow-first-token", "seconds": 600}  # the server waits before the first token
    with (
        server_process("--backend", "scripted", max_files=128) as server,
        ExitStack() as connections,
    ):
        httpx.post(f"{server.root}/_emulator/faults", json=fault).raise_for_status()
        busy = [connections.enter_context(connect_to(server, HEAD + BODY)) for _ in range(100)]
        refused = select.select(busy, [], [], 20)[0]
        assert refused
        assert all(rest_of(c).startswith(b"HTTP/1.1 503 ") for c in refused)
        assert httpx.get(f"{server.root}/_emulator/healthz", timeout=20).status_code == 200
        server.wait_for_line("refused a new one")


def connect_to(server: ServerProcess, data: bytes) -> socket.socket:
    url = httpx.URL(server.root)
    connection = socket.create_connection((url.host, url.port or 80), timeout=20)
    connection.sendall(data)
    return connection


def is_readable(connection: socket.socket) -> bool:
    return bool(select.select([connection], [], [], 0.2)[0])


# ── the shutdown ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(HEAD[:20], id="half a head"),
        pytest.param(HEAD + BODY[:5], id="half a body"),
        pytest.param(HEAD.replace(b"/ai/run", b"/ai/none") + BODY[:5], id="a body without a route"),
        pytest.param(HEAD + BODY, id="a whole request"),
    ],
)
def test_a_signal_stops_the_server_in_time_whatever_clients_have_sent(data: bytes) -> None:
    with server_process("--backend", "scripted") as server, ExitStack() as connections:
        for _ in range(3):
            connections.enter_context(connect_to(server, data))
        assert server.run({"prompt": "Hello"}).status_code == 200
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(timeout=10) == 0
    assert not [line for line in server.log if "Traceback" in line or "ERROR" in line]


def test_a_signal_stops_the_server_in_time_although_a_client_does_not_read() -> None:
    head = b"GET /_emulator/openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with server_process("--backend", "scripted") as server:
        connection = connect_to(server, b"")
        sending = threading.Thread(target=send_all, args=(connection, head * 1000))
        sending.start()
        wait_until(lambda: not is_readable(connection) or bool(connection.recv(1)))
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(timeout=20) == 0
        sending.join()
        connection.close()
    assert not [line for line in server.log if "Traceback" in line or "ERROR" in line]


def test_a_signal_stops_the_server_in_time_although_a_closing_connection_is_not_read() -> None:
    with server_process("--backend", "scripted") as server:
        server.set_script({"answer": LONG_ANSWER})
        with connect_without_reading(httpx.URL(server.root).port or 80):
            server.wait_for_line("ai/run", "200")
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(timeout=20) == 0
    assert not [line for line in server.log if "Traceback" in line or "ERROR" in line]
