"""The proxy of `exec` between real sockets; what stands for the emulator is a few lines here."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme
from workers_ai_emulator.interception.certificates import HOSTS, authority, server_context
from workers_ai_emulator.interception.proxy import Address, Connection, Proxy

LIMIT_S = 30
BIG = bytes(range(256)) * 2**16  # 16 MiB: more than all buffers on the way hold

Serve = Callable[[Connection], Awaitable[None]]


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(LIMIT_S):
            await test()

    asyncio.run(limited())


@asynccontextmanager
async def listening(serve: Serve, context: ssl.SSLContext | None = None) -> AsyncIterator[Address]:
    """A server of the test's own."""

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
    while piece := await connection.reader.read(2**16):
        connection.writer.write(piece)
        await connection.writer.drain()


async def heard(connection: Connection) -> None:
    """Answers with the head that came."""
    head = await connection.reader.readuntil(b"\r\n\r\n")
    connection.writer.write(b"heard " + head)


class Cloudflare:
    """The proxy, and what its clients need to know."""

    def __init__(self, proxy: Proxy, ca: trustme.CA) -> None:
        self.proxy = proxy
        self._ca = ca

    async def say(self, line: str, *fields: str) -> Connection:
        connection = Connection(*await asyncio.open_connection(*self.proxy.address))
        connection.writer.write("\r\n".join([line, *fields, "", ""]).encode())
        return connection

    async def ask(self, line: str, *fields: str) -> bytes:
        """All that comes back."""
        connection = await self.say(line, *fields)
        answer = await connection.reader.read()
        connection.writer.close()
        return answer

    async def connect(
        self, destination: Address | str, name: str = HOSTS[0], ca: trustme.CA | None = None
    ) -> Connection:
        """TLS through a tunnel."""
        connection = await self.say(f"CONNECT {destination} HTTP/1.1", f"Host: {destination}")
        head = await connection.reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 "), head
        await connection.writer.start_tls(trusting(ca or self._ca), server_hostname=name)
        return connection


def trusting(ca: trustme.CA) -> ssl.SSLContext:
    return ssl.create_default_context(cadata=ca.cert_pem.bytes().decode())


@asynccontextmanager
async def intercepted(
    folder: Path, serve: Serve, own_proxies: Mapping[str, str] | None = None
) -> AsyncIterator[Cloudflare]:
    ca = authority(folder)
    async with (
        listening(serve) as emulator,
        Proxy(emulator, server_context(ca), own_proxies or {}) as proxy,
    ):
        yield Cloudflare(proxy, ca)


async def exchange(connection: Connection, data: bytes) -> bytes:
    """As much back as is sent, which is sent meanwhile."""
    sending = asyncio.create_task(_send(connection.writer, data))
    answer = await connection.reader.readexactly(len(data))
    await sending
    connection.writer.close()
    return answer


async def _send(writer: asyncio.StreamWriter, data: bytes) -> None:
    for start in range(0, len(data), 2**18):
        writer.write(data[start : start + 2**18])
        await writer.drain()


@pytest.mark.parametrize(
    "destination",
    [f"{HOSTS[0]}:443", f"{HOSTS[1]}:443", "API.Cloudflare.com:443", "api.cloudflare.com.:443"],
)
def test_our_hosts_are_answered_by_the_emulator(tmp_path: Path, destination: str) -> None:
    async def test() -> None:
        async with intercepted(tmp_path, echo) as cloudflare:
            connection = await cloudflare.connect(destination)
            assert await exchange(connection, b"hello") == b"hello"

    run(test)


def test_the_tls_port_leads_there_too(tmp_path: Path) -> None:
    async def test() -> None:
        async with intercepted(tmp_path, echo) as cloudflare:
            connection = Connection(
                *await asyncio.open_connection(
                    *cloudflare.proxy.tls_address,
                    ssl=trusting(authority(tmp_path)),
                    server_hostname=HOSTS[1],
                )
            )
            assert await exchange(connection, b"hello") == b"hello"

    run(test)


def test_large_bodies_go_both_ways_whole(tmp_path: Path) -> None:
    async def test() -> None:
        async with intercepted(tmp_path, echo) as cloudflare:
            connection = await cloudflare.connect(f"{HOSTS[0]}:443")
            assert await exchange(connection, BIG) == BIG

    run(test)


def test_another_host_shows_its_own_certificate(tmp_path: Path) -> None:
    async def test() -> None:
        own_ca, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        own_ca.issue_cert("localhost").configure_cert(context)
        async with intercepted(tmp_path, heard) as cloudflare, listening(echo, context) as other:
            destination = f"localhost:{other.port}"
            connection = await cloudflare.connect(destination, name="localhost", ca=own_ca)
            assert await exchange(connection, b"hello") == b"hello"

    run(test)


def test_a_half_that_is_closed_stays_half(tmp_path: Path) -> None:
    async def answer_at_the_end(connection: Connection) -> None:
        connection.writer.write(await connection.reader.read())

    async def test() -> None:
        async with (
            intercepted(tmp_path, heard) as cloudflare,
            listening(answer_at_the_end) as other,
        ):
            connection = await cloudflare.say(f"CONNECT {other} HTTP/1.1")
            await connection.reader.readuntil(b"\r\n\r\n")
            connection.writer.write(b"all of it")
            connection.writer.write_eof()
            assert await connection.reader.read() == b"all of it"
            connection.writer.close()

    run(test)


@pytest.mark.parametrize("is_sending", [True, False])
def test_a_client_that_leaves_takes_the_emulators_connection_along(
    tmp_path: Path, is_sending: bool
) -> None:
    async def test() -> None:
        begun, ended = asyncio.Event(), asyncio.Event()

        async def stream(connection: Connection) -> None:
            writing = asyncio.create_task(_endless(connection.writer if is_sending else None))
            begun.set()
            await connection.reader.read()
            ended.set()
            writing.cancel()

        async with intercepted(tmp_path, stream) as cloudflare:
            connection = await cloudflare.connect(f"{HOSTS[0]}:443")
            await begun.wait()
            connection.writer.transport.abort()
            await ended.wait()

    run(test)


async def _endless(writer: asyncio.StreamWriter | None) -> None:
    while writer:
        writer.write(b"data: more\n\n")
        await writer.drain()
        await asyncio.sleep(0)


def test_an_emulator_that_breaks_off_ends_the_clients_answer(tmp_path: Path) -> None:
    async def break_off(connection: Connection) -> None:
        connection.writer.write(b"data: one\n\n")

    async def test() -> None:
        async with intercepted(tmp_path, break_off) as cloudflare:
            connection = await cloudflare.connect(f"{HOSTS[0]}:443")
            assert await connection.reader.read() == b"data: one\n\n"
            connection.writer.close()

    run(test)


@pytest.mark.parametrize(
    ("path", "origin"), [("/a//b?c=d", "/a//b?c=d"), ("", "/"), ("?c=d#e", "/?c=d")]
)
def test_a_plain_request_goes_on_in_origin_form(tmp_path: Path, path: str, origin: str) -> None:
    async def test() -> None:
        async with intercepted(tmp_path, echo) as cloudflare, listening(heard) as other:
            fields = [f"Host: {other}", "Proxy-Connection: keep-alive", "Connection: keep-alive"]
            answer = await cloudflare.ask(f"GET http://{other}{path} HTTP/1.1", *fields, "X: y")
        lines = [f"GET {origin} HTTP/1.1", f"Host: {other}", "X: y", "Connection: close", "", ""]
        assert answer.decode() == "heard " + "\r\n".join(lines)

    run(test)


def through(own_proxy: Address, **others: str) -> dict[str, str]:
    url = f"http://me:p%40ss@{own_proxy}"
    return {"https": url, "http": url, **others}


def test_the_users_own_proxy_is_gone_through(tmp_path: Path) -> None:
    heads: list[bytes] = []

    async def own_proxy(connection: Connection) -> None:
        heads.append(await connection.reader.readuntil(b"\r\n\r\n"))
        connection.writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        await echo(connection)

    async def test() -> None:
        async with (
            listening(own_proxy) as address,
            intercepted(tmp_path, echo, through(address)) as cloudflare,
        ):
            connection = await cloudflare.say("CONNECT other.example:443 HTTP/1.1")
            await connection.reader.readuntil(b"\r\n\r\n")
            assert await exchange(connection, b"hello") == b"hello"
            plain = await cloudflare.say("GET http://other.example/ HTTP/1.1")
            await plain.reader.readuntil(b"\r\n\r\n")
            plain.writer.close()

    run(test)
    assert heads[0].startswith(b"CONNECT other.example:443 HTTP/1.1\r\n")
    assert heads[1].startswith(b"GET http://other.example/ HTTP/1.1\r\n")
    assert all(b"\r\nProxy-Authorization: Basic bWU6cEBzcw==\r\n" in head for head in heads)


@pytest.mark.parametrize("host", [*HOSTS, "localhost"])
def test_what_is_near_goes_by_no_proxy(tmp_path: Path, host: str) -> None:
    async def refuse(_: Connection) -> None:
        pytest.fail("the user's own proxy was asked")

    async def test() -> None:
        async with (
            listening(refuse) as own_proxy,
            listening(echo) as other,
            intercepted(tmp_path, echo, through(own_proxy)) as cloudflare,
        ):
            port = 443 if host in HOSTS else other.port
            connection = await cloudflare.say(f"CONNECT {host}:{port} HTTP/1.1")
            head = await connection.reader.readuntil(b"\r\n\r\n")
            connection.writer.close()
            assert head.startswith(b"HTTP/1.1 200 ")

    run(test)


async def refuse(connection: Connection) -> None:
    await connection.reader.readuntil(b"\r\n\r\n")
    connection.writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")


def test_what_cannot_be_reached_is_502_with_a_line(tmp_path: Path) -> None:
    async def test() -> None:
        async with listening(refuse) as own_proxy:
            cases: list[tuple[dict[str, str], str, str]] = [
                ({}, "nobody.invalid", "cannot reach nobody.invalid:443"),
                (through(own_proxy, no=".invalid"), "nobody.invalid", "cannot reach"),
                (through(own_proxy), "other.example", "407 Proxy Authentication Required"),
                ({"all": "socks5://corp:1080"}, "other.example", "only proxies at http://"),
                ({"https": "http://corp:port"}, "other.example", "only proxies at http://"),
            ]
            for own_proxies, host, reason in cases:
                async with intercepted(tmp_path, echo, own_proxies) as cloudflare:
                    answer = (await cloudflare.ask(f"CONNECT {host}:443 HTTP/1.1")).decode()
                assert answer.startswith("HTTP/1.1 502 ") and reason in answer
                assert answer.partition("\r\n\r\n")[2].count("\n") == 1

    run(test)


def test_an_emulator_that_has_gone_is_502_over_tls(tmp_path: Path) -> None:
    async def test() -> None:
        ca = authority(tmp_path)
        async with listening(echo) as gone:
            pass
        async with Proxy(gone, server_context(ca), {}) as proxy:
            connection = await Cloudflare(proxy, ca).connect(f"{HOSTS[0]}:443")
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
def test_what_is_no_request_to_a_proxy_is_400(tmp_path: Path, line: str) -> None:
    async def test() -> None:
        async with intercepted(tmp_path, echo) as cloudflare:
            assert (await cloudflare.ask(line)).startswith(b"HTTP/1.1 400 ")

    run(test)


def test_a_head_without_end_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(beginning: bytes, status: bytes) -> None:
        async with intercepted(tmp_path, echo) as cloudflare:
            connection = Connection(*await asyncio.open_connection(*cloudflare.proxy.address))
            connection.writer.write(beginning)
            assert (await connection.reader.read()).startswith(b"HTTP/1.1 " + status)
            connection.writer.close()

    monkeypatch.setattr("workers_ai_emulator.interception.proxy._HEAD_LIMIT", 2**10)
    monkeypatch.setattr("workers_ai_emulator.interception.proxy._HEAD_TIMEOUT_S", 0.1)
    run(lambda: test(b"GET http://a/" + bytes(2**10 + 1), b"400"))
    run(lambda: test(b"GET http://a/ HTTP/1.1\r\n", b"408"))


def test_connections_that_are_left_end_with_the_proxy(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        begun, ended = asyncio.Event(), asyncio.Event()

        async def wait(connection: Connection) -> None:
            begun.set()
            await connection.reader.read()
            ended.set()

        async with listening(wait) as emulator:
            ca = authority(tmp_path)
            async with Proxy(emulator, server_context(ca), {}) as proxy:
                connection = await Cloudflare(proxy, ca).connect(f"{HOSTS[0]}:443")
                await begun.wait()
            await ended.wait()
            connection.writer.close()

    run(test)
    assert not caplog.records
