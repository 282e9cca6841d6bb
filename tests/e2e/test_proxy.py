"""Tests the proxy of `exec`, over real sockets and with a fake emulator."""

from __future__ import annotations

import asyncio
import base64
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme
from workers_ai_emulator.interception.certificates import HOSTS, authority, server_context
from workers_ai_emulator.interception.proxy import Address, Connection, Proxy, _connect

LIMIT_S = 30
LARGE = bytes(range(256)) * 2**16  # 16 MiB: more than all socket buffers can hold

Serve = Callable[[Connection], Awaitable[None]]


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(LIMIT_S):
            await test()

    asyncio.run(limited())


@asynccontextmanager
async def listening(serve: Serve, context: ssl.SSLContext | None = None) -> AsyncIterator[Address]:
    """Runs a server that calls `serve` for each connection. Yields the server's address."""

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(Connection(reader, writer))
        finally:
            writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=context)
    try:
        yield Address(*server.sockets[0].getsockname())
    finally:
        server.close()


async def echo(connection: Connection) -> None:
    while data := await connection.reader.read(2**16):
        connection.writer.write(data)
        await connection.writer.drain()


async def echo_head(connection: Connection) -> None:
    """Sends the received head of a request back to the client."""
    head = await connection.reader.readuntil(b"\r\n\r\n")
    connection.writer.write(b"received " + head)


def basic(credentials: str) -> str:
    return f"Basic {base64.b64encode(credentials.encode()).decode()}"


class Clients:
    """Opens connections to the proxy. `ca`: the authority that signs the proxy's certificates."""

    def __init__(self, proxy: Proxy, ca: trustme.CA) -> None:
        self.proxy = proxy
        self._ca = ca

    async def send_head(self, line: str, *fields: str) -> Connection:
        connection = Connection(*await asyncio.open_connection(*self.proxy.address))
        login = f"Proxy-Authorization: {basic(self.proxy.credentials)}"
        connection.writer.write("\r\n".join([line, login, *fields, "", ""]).encode())
        return connection

    async def request(self, line: str, *fields: str) -> bytes:
        """Sends a request without a body through the proxy, and returns the whole response."""
        connection = await self.send_head(line, *fields)
        response = await connection.reader.read()
        connection.writer.close()
        return response

    async def connect(
        self, destination: Address | str, name: str = HOSTS[0], ca: trustme.CA | None = None
    ) -> Connection:
        """Opens a TLS connection to the destination through a tunnel of the proxy."""
        connection = await self.send_head(f"CONNECT {destination} HTTP/1.1", f"Host: {destination}")
        head = await connection.reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 "), head
        await connection.writer.start_tls(trusting(ca or self._ca), server_hostname=name)
        return connection


def trusting(ca: trustme.CA) -> ssl.SSLContext:
    return ssl.create_default_context(cadata=ca.cert_pem.bytes().decode())


@asynccontextmanager
async def intercepted(
    folder: Path, serve: Serve, user_proxies: Mapping[str, str] | None = None
) -> AsyncIterator[Clients]:
    ca = authority(folder)
    async with (
        listening(serve) as emulator,
        Proxy(emulator, server_context(ca), user_proxies or {}) as proxy,
    ):
        yield Clients(proxy, ca)


async def exchange(connection: Connection, data: bytes) -> bytes:
    """Sends the data and at the same time reads as many bytes. Returns the received bytes."""
    sending = asyncio.create_task(_send(connection.writer, data))
    received = await connection.reader.readexactly(len(data))
    await sending
    connection.writer.close()
    return received


async def _send(writer: asyncio.StreamWriter, data: bytes) -> None:
    for start in range(0, len(data), 2**18):
        writer.write(data[start : start + 2**18])
        await writer.drain()


@pytest.mark.parametrize(
    "destination",
    [f"{HOSTS[0]}:443", f"{HOSTS[1]}:443", "API.Cloudflare.com:443", "api.cloudflare.com.:443"],
)
def test_tunnels_to_the_api_hosts_lead_to_the_emulator(tmp_path: Path, destination: str) -> None:
    async def test() -> None:
        async with intercepted(tmp_path, echo) as clients:
            connection = await clients.connect(destination)
            assert await exchange(connection, b"hello") == b"hello"

    run(test)


def test_the_tls_port_leads_to_the_emulator(tmp_path: Path) -> None:
    async def test() -> None:
        async with intercepted(tmp_path, echo) as clients:
            connection = Connection(
                *await asyncio.open_connection(
                    *clients.proxy.tls_address,
                    ssl=trusting(authority(tmp_path)),
                    server_hostname=HOSTS[1],
                )
            )
            assert await exchange(connection, b"hello") == b"hello"

    run(test)


def test_large_bodies_are_relayed_in_both_directions(tmp_path: Path) -> None:
    async def test() -> None:
        async with intercepted(tmp_path, echo) as clients:
            connection = await clients.connect(f"{HOSTS[0]}:443")
            assert await exchange(connection, LARGE) == LARGE

    run(test)


def test_tls_to_another_host_is_not_decrypted(tmp_path: Path) -> None:
    async def test() -> None:
        own_ca, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        own_ca.issue_cert("localhost").configure_cert(context)
        async with intercepted(tmp_path, echo_head) as clients, listening(echo, context) as other:
            destination = f"localhost:{other.port}"
            connection = await clients.connect(destination, name="localhost", ca=own_ca)
            assert await exchange(connection, b"hello") == b"hello"

    run(test)


def test_a_half_closed_connection_can_still_receive(tmp_path: Path) -> None:
    async def echo_at_eof(connection: Connection) -> None:
        connection.writer.write(await connection.reader.read())

    async def test() -> None:
        async with (
            intercepted(tmp_path, echo_head) as clients,
            listening(echo_at_eof) as other,
        ):
            connection = await clients.send_head(f"CONNECT {other} HTTP/1.1")
            await connection.reader.readuntil(b"\r\n\r\n")
            connection.writer.write(b"all of it")
            connection.writer.write_eof()
            assert await connection.reader.read() == b"all of it"
            connection.writer.close()

    run(test)


@pytest.mark.parametrize("is_sending", [True, False])
def test_the_emulator_is_disconnected_when_the_client_disconnects(
    tmp_path: Path, is_sending: bool
) -> None:
    async def test() -> None:
        is_connected, is_disconnected = asyncio.Event(), asyncio.Event()

        async def stream(connection: Connection) -> None:
            writing = asyncio.create_task(_endless(connection.writer if is_sending else None))
            is_connected.set()
            await connection.reader.read()
            is_disconnected.set()
            writing.cancel()

        async with intercepted(tmp_path, stream) as clients:
            connection = await clients.connect(f"{HOSTS[0]}:443")
            await is_connected.wait()
            connection.writer.transport.abort()
            await is_disconnected.wait()

    run(test)


async def _endless(writer: asyncio.StreamWriter | None) -> None:
    while writer:
        writer.write(b"data: more\n\n")
        await writer.drain()
        await asyncio.sleep(0)


def test_the_client_is_disconnected_when_the_emulator_disconnects(tmp_path: Path) -> None:
    async def send_and_disconnect(connection: Connection) -> None:
        connection.writer.write(b"data: one\n\n")

    async def test() -> None:
        async with intercepted(tmp_path, send_and_disconnect) as clients:
            connection = await clients.connect(f"{HOSTS[0]}:443")
            assert await connection.reader.read() == b"data: one\n\n"
            connection.writer.close()

    run(test)


@pytest.mark.parametrize(
    ("path", "origin"), [("/a//b?c=d", "/a//b?c=d"), ("", "/"), ("?c=d#e", "/?c=d")]
)
def test_a_plain_request_is_forwarded_in_origin_form(
    tmp_path: Path, path: str, origin: str
) -> None:
    async def test() -> None:
        async with intercepted(tmp_path, echo) as clients, listening(echo_head) as other:
            fields = [f"Host: {other}", "Proxy-Connection: keep-alive", "Connection: keep-alive"]
            response = await clients.request(f"GET http://{other}{path} HTTP/1.1", *fields, "X: y")
        lines = [f"GET {origin} HTTP/1.1", f"Host: {other}", "X: y", "Connection: close", "", ""]
        assert response.decode() == "received " + "\r\n".join(lines)

    run(test)


def through(user_proxy: Address, **others: str) -> dict[str, str]:
    url = f"http://me:p%40ss@{user_proxy}"
    return {"https": url, "http": url, **others}


def test_other_hosts_are_reached_through_the_users_proxy(tmp_path: Path) -> None:
    heads: list[bytes] = []

    async def user_proxy(connection: Connection) -> None:
        heads.append(await connection.reader.readuntil(b"\r\n\r\n"))
        connection.writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        await echo(connection)

    async def test() -> None:
        async with (
            listening(user_proxy) as address,
            intercepted(tmp_path, echo, through(address)) as clients,
        ):
            connection = await clients.send_head("CONNECT other.example:443 HTTP/1.1")
            await connection.reader.readuntil(b"\r\n\r\n")
            assert await exchange(connection, b"hello") == b"hello"
            plain = await clients.send_head("GET http://other.example/ HTTP/1.1")
            await plain.reader.readuntil(b"\r\n\r\n")
            plain.writer.close()

    run(test)
    assert heads[0].startswith(b"CONNECT other.example:443 HTTP/1.1\r\n")
    assert heads[1].startswith(b"GET http://other.example/ HTTP/1.1\r\n")
    assert all(b"\r\nProxy-Authorization: Basic bWU6cEBzcw==\r\n" in head for head in heads)


@pytest.mark.parametrize("host", [*HOSTS, "localhost"])
def test_the_users_proxy_is_not_used_for_the_emulator_or_loopback(
    tmp_path: Path, host: str
) -> None:
    async def refuse(_: Connection) -> None:
        pytest.fail("the user's proxy received a connection")

    async def test() -> None:
        async with (
            listening(refuse) as user_proxy,
            listening(echo) as other,
            intercepted(tmp_path, echo, through(user_proxy)) as clients,
        ):
            port = 443 if host in HOSTS else other.port
            connection = await clients.send_head(f"CONNECT {host}:{port} HTTP/1.1")
            head = await connection.reader.readuntil(b"\r\n\r\n")
            connection.writer.close()
            assert head.startswith(b"HTTP/1.1 200 ")

    run(test)


@pytest.mark.parametrize(
    "line", ["CONNECT other.example:443 HTTP/1.1", "GET http://other.example/ HTTP/1.1"]
)
@pytest.mark.parametrize(
    "fields",
    [
        [],
        [f"Proxy-Authorization: {basic('exec:guessed')}"],
        ["Proxy-Authorization: Bearer x", "Proxy-Authorization: \xe9"],
    ],
)
def test_a_program_without_the_proxys_credentials_gets_407_and_no_connection(
    tmp_path: Path, line: str, fields: list[str]
) -> None:
    async def refuse(_: Connection) -> None:
        pytest.fail("the user's proxy received a connection")

    async def test() -> None:
        async with (
            listening(refuse) as user_proxy,
            intercepted(tmp_path, refuse, through(user_proxy)) as clients,
        ):
            client = Connection(*await asyncio.open_connection(*clients.proxy.address))
            client.writer.write("\r\n".join([line, *fields, "", ""]).encode("latin-1"))
            response = (await client.reader.read()).decode()
            client.writer.close()
        assert response.startswith("HTTP/1.1 407 ")
        assert "\r\nProxy-Authenticate: Basic " in response
        assert response.partition("\r\n\r\n")[2].count("\n") == 1

    run(test)


def test_every_proxy_has_other_credentials(tmp_path: Path) -> None:
    context = server_context(authority(tmp_path))
    proxies = [Proxy(Address("127.0.0.1", 1), context, {}) for _ in range(2)]
    assert proxies[0].credentials != proxies[1].credentials


def test_the_tls_port_forwards_nothing_to_the_users_proxy(tmp_path: Path) -> None:
    async def refuse(_: Connection) -> None:
        pytest.fail("the user's proxy received a connection")

    async def test() -> None:
        async with (
            listening(refuse) as user_proxy,
            intercepted(tmp_path, echo_head, through(user_proxy)) as clients,
        ):
            connection = Connection(
                *await asyncio.open_connection(
                    *clients.proxy.tls_address,
                    ssl=trusting(authority(tmp_path)),
                    server_hostname=HOSTS[0],
                )
            )
            connection.writer.write(b"CONNECT other.example:443 HTTP/1.1\r\n\r\n")
            assert await connection.reader.read(10) == b"received C"
            connection.writer.close()

    run(test)


async def refuse(connection: Connection) -> None:
    await connection.reader.readuntil(b"\r\n\r\n")
    connection.writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")


def test_an_unreachable_destination_is_502_with_one_line(tmp_path: Path) -> None:
    async def test() -> None:
        async with listening(refuse) as user_proxy:
            cases: list[tuple[dict[str, str], str, str]] = [
                ({}, "host.invalid", "cannot reach host.invalid:443"),
                (through(user_proxy, no=".invalid"), "host.invalid", "cannot reach"),
                (through(user_proxy, no="a.example, *"), "host.invalid", "cannot reach"),
                (through(user_proxy), "other.example", "407 Proxy Authentication Required"),
                ({"all": "socks5://corp:1080"}, "other.example", "only proxies at http://"),
                ({"https": "http://corp:port"}, "other.example", "only proxies at http://"),
                ({"https": "http://me:12/3@corp"}, "other.example", "only proxies at http://"),
            ]
            for user_proxies, host, reason in cases:
                async with intercepted(tmp_path, echo, user_proxies) as clients:
                    response = (await clients.request(f"CONNECT {host}:443 HTTP/1.1")).decode()
                assert response.startswith("HTTP/1.1 502 ") and reason in response
                assert response.partition("\r\n\r\n")[2].count("\n") == 1

    run(test)


def test_an_emulator_that_has_exited_is_502_over_tls(tmp_path: Path) -> None:
    async def test() -> None:
        ca = authority(tmp_path)
        async with listening(echo) as address:
            pass
        async with Proxy(address, server_context(ca), {}) as proxy:
            connection = await Clients(proxy, ca).connect(f"{HOSTS[0]}:443")
            assert (await connection.reader.read()).startswith(b"HTTP/1.1 502 ")
            connection.writer.close()

    run(test)


@pytest.mark.parametrize(
    "line",
    [
        "GET / HTTP/1.1",
        "CONNECT api.cloudflare.com HTTP/1.1",
        "CONNECT api.cloudflare.com:https HTTP/1.1",
        "CONNECT :443 HTTP/1.1",
        "GET ftp://example.com/ HTTP/1.1",
        "GET http://[::1/ HTTP/1.1",
        "\x16\x03\x01",
        "",
    ],
)
def test_an_invalid_request_to_the_proxy_is_400(tmp_path: Path, line: str) -> None:
    async def test() -> None:
        async with intercepted(tmp_path, echo) as clients:
            assert (await clients.request(line)).startswith(b"HTTP/1.1 400 ")

    run(test)


def test_a_head_that_is_too_long_or_too_slow_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(beginning: bytes, status: bytes) -> None:
        async with intercepted(tmp_path, echo) as clients:
            connection = Connection(*await asyncio.open_connection(*clients.proxy.address))
            connection.writer.write(beginning)
            assert (await connection.reader.read()).startswith(b"HTTP/1.1 " + status)
            connection.writer.close()

    monkeypatch.setattr("workers_ai_emulator.interception.proxy._HEAD_LIMIT", 2**10)
    monkeypatch.setattr("workers_ai_emulator.interception.proxy._HEAD_TIMEOUT_S", 0.1)
    run(lambda: test(b"GET http://a/" + bytes(2**10 + 1), b"400"))
    run(lambda: test(b"GET http://a/ HTTP/1.1\r\n", b"408"))


def test_open_connections_are_closed_with_the_proxy(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        is_connected, is_disconnected = asyncio.Event(), asyncio.Event()

        async def wait(connection: Connection) -> None:
            is_connected.set()
            await connection.reader.read()
            is_disconnected.set()

        async with listening(wait) as emulator:
            ca = authority(tmp_path)
            async with Proxy(emulator, server_context(ca), {}) as proxy:
                connection = await Clients(proxy, ca).connect(f"{HOSTS[0]}:443")
                await is_connected.wait()
            await is_disconnected.wait()
            connection.writer.close()

    run(test)
    assert not caplog.records


def test_an_address_that_does_not_respond_does_not_delay_the_next_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def test() -> None:
        loop = asyncio.get_running_loop()
        connect = loop.sock_connect

        async def resolve(host: str, port: int, **_: object) -> list[object]:
            assert host == "two.example"
            addresses = ("127.219.83.7", port), ("127.0.0.1", port)
            return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", address) for address in addresses]

        async def connect_only_to_the_second(sock: socket.socket, address: tuple[str, int]) -> None:
            if address[0] != "127.0.0.1":
                await asyncio.Event().wait()
            await connect(sock, address)

        async with listening(echo) as address:
            monkeypatch.setattr(loop, "getaddrinfo", resolve)
            monkeypatch.setattr(loop, "sock_connect", connect_only_to_the_second)
            connection = await _connect(Address("two.example", address.port))
            assert connection.writer.get_extra_info("peername") == address
            connection.writer.close()

    run(test)
