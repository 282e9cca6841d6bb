"""Two ports of this machine that lead to the emulator, for programs that mean Cloudflare.

    program ── CONNECT api.cloudflare.com:443 ──> proxy ──> TLS port ──> emulator
    program ── TLS, sent here by a hook ──────────────────> TLS port ──> emulator
    program ── any other host ───────────────────> proxy ──> the host, or the user's own proxy

Bytes are passed on as they come. Who reads slowly slows the writer down, and an end that goes
takes the other with it: that is how a cancelled stream gives its slot back.
"""

from __future__ import annotations

import asyncio
import base64
import re
import ssl
from collections.abc import Callable, Coroutine, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, NamedTuple, Self
from urllib.parse import unquote, urlsplit
from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined] # undocumented

from workers_ai_emulator.interception.certificates import HOSTS

LOOPBACK_NAMES = ("127.0.0.1", "localhost", "::1")

_LOOPBACK = "127.0.0.1"
_HEAD_LIMIT = 2**16
_HEAD_TIMEOUT_S = 30.0
_PIECE_SIZE = 2**16
_HOP_BY_HOP = ("proxy-", "connection:", "keep-alive:")


class Address(NamedTuple):
    """Where something listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Connection(NamedTuple):
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


class Refusal(Exception):
    """A program cannot have what it asked for, and is told why in a line."""

    def __init__(self, status: HTTPStatus, reason: str) -> None:
        super().__init__(reason)
        self._status = status

    def response(self) -> bytes:
        body = f"workers-ai-emulator: {self}\n".encode()
        head = (
            f"HTTP/1.1 {self._status.value} {self._status.phrase}\r\n"
            "Content-Type: text/plain; charset=utf-8\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        return head.encode() + body


class Proxy:
    """Both ports, open inside its `async with`.

    `own_proxies` are the user's, in the form of urllib's `getproxies`.
    """

    def __init__(
        self, emulator: Address, context: ssl.SSLContext, own_proxies: Mapping[str, str]
    ) -> None:
        self._emulator = emulator
        self._context = context
        self._own_proxies = dict(own_proxies)
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._tls_server = await asyncio.start_server(
            self._in_task(self._answer), _LOOPBACK, 0, ssl=self._context
        )
        self._server = await asyncio.start_server(
            self._in_task(self._forward), _LOOPBACK, 0, limit=_HEAD_LIMIT
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        """Take no more connections, and drop those that are left: nobody waits for them."""
        self._server.close()
        self._tls_server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def address(self) -> Address:
        return Address(*self._server.sockets[0].getsockname())

    @property
    def tls_address(self) -> Address:
        return Address(*self._tls_server.sockets[0].getsockname())

    def _in_task(
        self, serve: Callable[[Connection], Coroutine[Any, Any, None]]
    ) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], None]:
        """asyncio's own tasks for connections complain when they are cancelled."""

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.create_task(serve(Connection(reader, writer)))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        return accept

    async def _answer(self, client: Connection) -> None:
        """Serve a connection to one of our hosts, whose TLS ends here."""
        with closing(client.writer), suppress(OSError):
            try:
                emulator = await _connect(self._emulator)
            except Refusal as refusal:
                client.writer.write(refusal.response())
            else:
                await _join(client, emulator)

    async def _forward(self, client: Connection) -> None:
        """Serve a connection of a program that goes by the proxy."""
        with closing(client.writer), suppress(OSError):
            try:
                request = Request.parse(await _read_head(client.reader))
                upstream = await self._reach(request)
            except Refusal as refusal:
                client.writer.write(refusal.response())
                return
            if request.is_connect:
                client.writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            await _join(client, upstream)

    async def _reach(self, request: Request) -> Connection:
        """A connection that takes what follows the request's head. Raises Refusal."""
        if request.is_ours:
            return await _connect(self.tls_address)
        proxy = OwnProxy.of(request, self._own_proxies)
        upstream = await _connect(proxy.address if proxy else request.destination)
        try:
            if not request.is_connect:
                upstream.writer.write(request.forwarded(proxy))
            elif proxy:
                await proxy.tunnel(upstream, request.destination)
        except BaseException:
            upstream.writer.close()
            raise
        return upstream


@dataclass(frozen=True, slots=True)
class Request:
    """The head of what a program asks a proxy for."""

    method: str
    target: str
    version: str
    fields: tuple[str, ...]
    destination: Address
    path: str

    @classmethod
    def parse(cls, head: str) -> Self:
        """Raises Refusal."""
        line, *fields = head.removesuffix("\r\n\r\n").split("\r\n")
        try:
            method, target, version = line.split(" ")
            is_connect = method == "CONNECT"
            scheme = "" if is_connect else "http://"
            match = re.fullmatch(rf"{scheme}([^/?#]+)([^#]*).*", target, re.IGNORECASE)
            authority, path = match.groups() if match else ("", "")
            parts = urlsplit(f"//{authority}")
            host, port = parts.hostname, parts.port or (None if is_connect else 80)
        except ValueError:
            host = port = None
        if not host or not port:
            raise Refusal(HTTPStatus.BAD_REQUEST, f"{line[:200]!r} is no request to a proxy")
        path = path if path.startswith("/") else f"/{path}"
        return cls(method, target, version, tuple(fields), Address(host, port), path)

    @property
    def is_connect(self) -> bool:
        return self.method == "CONNECT"

    @property
    def is_ours(self) -> bool:
        host, port = self.destination
        return port == 443 and host.removesuffix(".") in HOSTS

    def forwarded(self, proxy: OwnProxy | None) -> bytes:
        """The head as the next one is to get it. One request a connection keeps it simple."""
        fields = [f for f in self.fields if not f.lower().startswith(_HOP_BY_HOP)]
        line = f"{self.method} {self.target if proxy else self.path} {self.version}"
        return _head(line, *fields, "Connection: close", *(proxy.fields if proxy else ()))


@dataclass(frozen=True, slots=True)
class OwnProxy:
    """The proxy that the user's environment names; `fields` let us in there."""

    address: Address
    fields: tuple[str, ...]

    @classmethod
    def of(cls, request: Request, own_proxies: dict[str, str]) -> Self | None:
        """The one for a request. Raises Refusal for one that we cannot speak to."""
        host, port = request.destination
        url = own_proxies.get("https" if request.is_connect else "http") or own_proxies.get("all")
        if not url or host in LOOPBACK_NAMES:
            return None
        if proxy_bypass_environment(f"{host}:{port}", own_proxies):
            return None
        try:
            parts = urlsplit(url if "://" in url else f"http://{url}")
            port = parts.port or 80
        except ValueError:
            parts = urlsplit("")
        if parts.scheme != "http" or not parts.hostname:
            raise Refusal(HTTPStatus.BAD_GATEWAY, "only proxies at http:// can be gone through")
        fields = []
        if parts.username is not None:
            credentials = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
            fields = [f"Proxy-Authorization: Basic {base64.b64encode(credentials).decode()}"]
        return cls(Address(parts.hostname, port), tuple(fields))

    async def tunnel(self, upstream: Connection, destination: Address) -> None:
        """Have the connection go on to a destination. Raises Refusal."""
        line = f"CONNECT {destination} HTTP/1.1"
        upstream.writer.write(_head(line, f"Host: {destination}", *self.fields))
        try:
            answer = (await _read_head(upstream.reader)).splitlines()[0]
        except (Refusal, OSError) as error:
            answer = str(error)
        if not re.match(r"HTTP/1\.\d 2", answer):
            raise Refusal(HTTPStatus.BAD_GATEWAY, f"the proxy {self.address} says {answer!r}")


async def _connect(address: Address) -> Connection:
    """Raises Refusal."""
    try:
        return Connection(*await asyncio.open_connection(*address))
    except (OSError, UnicodeError) as error:  # the latter for a name that can be nobody's
        raise Refusal(HTTPStatus.BAD_GATEWAY, f"cannot reach {address}: {error}") from error


async def _read_head(reader: asyncio.StreamReader) -> str:
    """Up to the empty line. Raises Refusal."""
    try:
        async with asyncio.timeout(_HEAD_TIMEOUT_S):
            return (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except TimeoutError as error:
        raise Refusal(HTTPStatus.REQUEST_TIMEOUT, "no whole head came in time") from error
    except asyncio.IncompleteReadError as error:
        raise Refusal(HTTPStatus.BAD_REQUEST, "the head ends in the middle") from error
    except asyncio.LimitOverrunError as error:
        raise Refusal(HTTPStatus.BAD_REQUEST, f"the head is over {_HEAD_LIMIT} bytes") from error


def _head(*lines: str) -> bytes:
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


async def _join(one: Connection, other: Connection) -> None:
    """Pass bytes both ways until both ends have said all, or one has gone."""
    with closing(one.writer), closing(other.writer):
        try:
            async with asyncio.TaskGroup() as directions:
                directions.create_task(_copy(one.reader, other.writer))
                directions.create_task(_copy(other.reader, one.writer))
        except* OSError:  # from the end that has gone
            pass


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while piece := await reader.read(_PIECE_SIZE):
        writer.write(piece)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()
    else:  # TLS knows no half
        writer.close()
