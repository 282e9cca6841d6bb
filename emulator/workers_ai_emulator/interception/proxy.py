"""An HTTP proxy that sends requests for Cloudflare's API hosts to the emulator.

The proxy has two ports on the loopback interface: the proxy port and the TLS port. Every user of
the machine can connect to them. The proxy port therefore requires credentials, which `exec` passes
only to the command that it runs. The TLS port requires no credentials, because it connects only to
the emulator.

    program ── CONNECT api.cloudflare.com:443 ──> proxy port ──> TLS port ──> emulator
    program ── TLS, redirected by a hook ───────────────────────> TLS port ──> emulator
    program ── any other host ──────────────────> proxy port ──> the host, or the user's own proxy

The proxy relays bytes as they arrive, and stops reading from the sender while the receiver is slow.
If the program disconnects, the proxy closes the connection to the emulator, so the emulator cancels
the generation.
"""

from __future__ import annotations

import asyncio
import base64
import re
import secrets
import ssl
from collections.abc import Callable, Coroutine, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, NamedTuple, Self
from urllib.parse import unquote, urlsplit

from workers_ai_emulator.interception.account_header import AccountHeader
from workers_ai_emulator.interception.certificates import HOSTS
from workers_ai_emulator.network import address_of, is_in_no_proxy
from workers_ai_emulator.urls import has_at_sign_after_host

LOOPBACK_NAMES = ("127.0.0.1", "localhost", "::1")

_LOOPBACK = "127.0.0.1"
_HEAD_LIMIT = 2**16
_HEAD_TIMEOUT_S = 30.0
_READ_SIZE = 2**16
# If a host's address, such as its IPv6 address, does not respond within this time, the proxy also
# tries the host's next address [RFC 8305].
_NEXT_ADDRESS_AFTER_S = 0.25
_USER = "exec"
_ONLY_HTTP = (
    "only proxies at http:// URLs are supported: check HTTPS_PROXY, HTTP_PROXY and ALL_PROXY (`/` "
    "in a password is %2F)"
)
_HOP_BY_HOP = ("proxy-", "connection:", "keep-alive:")


class Address(NamedTuple):
    """A host name or IP address, and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Connection(NamedTuple):
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


class Refusal(Exception):
    """The proxy refuses a request. Contains the status and the text of the error response."""

    def __init__(self, status: HTTPStatus, reason: str) -> None:
        super().__init__(reason)
        self._status = status

    def response(self) -> bytes:
        body = f"workers-ai-emulator: {self}\n".encode()
        head = (
            f"HTTP/1.1 {self._status.value} {self._status.phrase}\r\n{self._challenge}"
            "Content-Type: text/plain; charset=utf-8\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        return head.encode() + body

    @property
    def _challenge(self) -> str:
        if self._status is not HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
            return ""
        return 'Proxy-Authenticate: Basic realm="workers-ai-emulator"\r\n'


class Proxy:
    """The proxy server. Its proxy port and its TLS port are open inside its `async with` block.

    The proxy port, at `address`, accepts requests to an HTTP proxy. It requires `credentials`
    (`user:password`); the password is random and new for each `Proxy` object. The TLS port, at
    `tls_address`, accepts TLS connections for Cloudflare's API hosts; `context` has the certificate
    for these hosts. `user_proxies` maps URL schemes to the proxies in the user's environment
    variables, as urllib's `getproxies` returns them. `account`: if it is not None, the proxy adds a
    header with this account id to each request for the emulator.
    """

    def __init__(
        self,
        emulator: Address,
        context: ssl.SSLContext,
        user_proxies: Mapping[str, str],
        account: str | None = None,
    ) -> None:
        self._emulator = emulator
        self._account = account
        self._context = context
        self._user_proxies = dict(user_proxies)
        self.credentials = f"{_USER}:{secrets.token_hex(16)}"
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._tls_server = await asyncio.start_server(
            self._in_task(self._serve_tls), _LOOPBACK, 0, ssl=self._context
        )
        self._server = await asyncio.start_server(
            self._in_task(self._serve_proxy), _LOOPBACK, 0, limit=_HEAD_LIMIT
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        """Closes both ports and every open connection."""
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
        """Returns a callback that serves each new connection in a task that the proxy creates.

        `__aexit__` cancels these tasks. If asyncio had created the tasks, it would log an error
        for each cancelled task.
        """

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.create_task(serve(Connection(reader, writer)))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        return accept

    async def _serve_tls(self, client: Connection) -> None:
        """Relays the decrypted bytes of a client's TLS connection to the emulator, and back."""
        with closing(client.writer), suppress(OSError):
            try:
                emulator = await _connect(self._emulator)
            except Refusal as refusal:
                client.writer.write(refusal.response())
            else:
                header = AccountHeader(self._account) if self._account else None
                await _relay(client, emulator, header.feed if header else None)

    async def _serve_proxy(self, client: Connection) -> None:
        """Reads one HTTP request to the proxy, such as CONNECT, then relays all further bytes."""
        with closing(client.writer), suppress(OSError):
            try:
                request = Request.parse(await _read_head(client.reader))
                request.check_credentials(self.credentials)
                upstream = await self._connect_upstream(request)
            except Refusal as refusal:
                client.writer.write(refusal.response())
                return
            if request.is_connect:
                client.writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            await _relay(client, upstream)

    async def _connect_upstream(self, request: Request) -> Connection:
        """Opens the connection over which the proxy forwards a client's request, and returns it.

        If the request is for the emulator, only connects to this proxy's TLS port. If it is for
        another host:
          - Connects to the user's own proxy, or to the host if the user has no proxy.
          - If the method is CONNECT, opens a tunnel through the user's proxy, if there is one.
          - If the method is not CONNECT, sends the request's head.
        Raises Refusal if the connection or the tunnel cannot be opened.
        """
        if request.is_for_emulator:
            return await _connect(self.tls_address)
        proxy = UserProxy.of(request, self._user_proxies)
        upstream = await _connect(proxy.address if proxy else request.destination)
        try:
            if not request.is_connect:
                upstream.writer.write(request.head_for(proxy))
            elif proxy:
                await proxy.tunnel(upstream, request.destination)
        except BaseException:
            upstream.writer.close()
            raise
        return upstream


@dataclass(frozen=True, slots=True)
class Request:
    """The request line and the header fields of a request to the proxy.

    `target` is the URL, or host and port, in the request line. `destination` (host and port) and
    `path` are the parts of `target`. `fields` are the header fields, each as one line of text.
    """

    method: str
    target: str
    version: str
    fields: tuple[str, ...]
    destination: Address
    path: str

    @classmethod
    def parse(cls, head: str) -> Self:
        """Parses `head`: a request line, header fields and the empty line after them.

        Raises Refusal if the request line is not valid for a proxy.
        """
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
            raise Refusal(HTTPStatus.BAD_REQUEST, f"{line[:200]!r} is not a request to a proxy")
        path = path if path.startswith("/") else f"/{path}"
        return cls(method, target, version, tuple(fields), Address(host, port), path)

    @property
    def is_connect(self) -> bool:
        return self.method == "CONNECT"

    @property
    def is_for_emulator(self) -> bool:
        host, port = self.destination
        return port == 443 and host.removesuffix(".") in HOSTS

    def check_credentials(self, credentials: str) -> None:
        """Raises Refusal, with status 407, if the request does not have the given credentials.

        `credentials` has the form `user:password`. The request must have them in exactly one
        `Proxy-Authorization` header.
        """
        expected = _basic(credentials)
        pairs = (field.partition(":") for field in self.fields)
        given = [v.strip() for name, _, v in pairs if name.lower() == "proxy-authorization"]
        if len(given) != 1 or not secrets.compare_digest(given[0].encode(), expected.encode()):
            raise Refusal(
                HTTPStatus.PROXY_AUTHENTICATION_REQUIRED,
                "this proxy is for the command of `workers-ai-emulator exec`; "
                "use the whole value of HTTPS_PROXY, with its password",
            )

    def head_for(self, proxy: UserProxy | None) -> bytes:
        """Returns the request line and header fields to send to `proxy`, the user's proxy.

        If `proxy` is None, returns the request line and header fields for the destination server.
        Adds `Connection: close`, because our proxy serves only one request per connection.
        """
        fields = [f for f in self.fields if not f.lower().startswith(_HOP_BY_HOP)]
        line = f"{self.method} {self.target if proxy else self.path} {self.version}"
        return _head(line, *fields, "Connection: close", *(proxy.fields if proxy else ()))


@dataclass(frozen=True, slots=True)
class UserProxy:
    """A proxy that the user's environment variables name.

    `fields` contains a `Proxy-Authorization` header field if the proxy's URL has credentials;
    otherwise it is empty.
    """

    address: Address
    fields: tuple[str, ...]

    @classmethod
    def of(cls, request: Request, user_proxies: dict[str, str]) -> Self | None:
        """Returns the user's proxy for the request's destination.

        Returns None if the user has no proxy, or if the destination matches the user's NO_PROXY or
        is a loopback name. Raises Refusal if the proxy's URL is invalid or its scheme is not http.
        """
        host, port = request.destination
        url = user_proxies.get("https" if request.is_connect else "http") or user_proxies.get("all")
        if not url or host in LOOPBACK_NAMES:
            return None
        if is_in_no_proxy(host, f"{host}:{port}", user_proxies.get("no", "")):
            return None
        return cls.parse(url)

    @classmethod
    def parse(cls, url: str) -> Self:
        """Parses the URL of a proxy; a URL without a scheme is read as http.

        Raises Refusal if the URL is invalid or its scheme is not http.
        """
        url = url if "://" in url else f"http://{url}"
        try:
            parts = urlsplit(url)
            port = parts.port or 80
        except ValueError:
            parts = urlsplit("")
        if parts.scheme != "http" or not parts.hostname or has_at_sign_after_host(url):
            raise Refusal(HTTPStatus.BAD_GATEWAY, _ONLY_HTTP)
        fields = []
        if parts.username is not None:
            credentials = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            fields = [f"Proxy-Authorization: {_basic(credentials)}"]
        return cls(Address(parts.hostname, port), tuple(fields))

    async def tunnel(self, upstream: Connection, destination: Address) -> None:
        """Makes the user's own proxy open a tunnel to `destination`, on the connection `upstream`.

        Sends CONNECT and reads the response. Raises Refusal if the user's proxy opens no tunnel.
        """
        line = f"CONNECT {destination} HTTP/1.1"
        upstream.writer.write(_head(line, f"Host: {destination}", *self.fields))
        try:
            status_line = (await _read_head(upstream.reader)).splitlines()[0]
        except (Refusal, OSError) as error:
            status_line = str(error)
        if not re.match(r"HTTP/1\.\d 2", status_line):
            reason = f"the proxy {self.address} opened no tunnel: {status_line!r}"
            raise Refusal(HTTPStatus.BAD_GATEWAY, reason)


async def _connect(address: Address) -> Connection:
    """Opens a connection to the address. Raises Refusal if the address cannot be reached."""
    try:
        # An IP address needs no delay. With one, a cancelled call can leave its connection open.
        delay = None if address_of(address.host) else _NEXT_ADDRESS_AFTER_S
        return Connection(*await asyncio.open_connection(*address, happy_eyeballs_delay=delay))
    except (OSError, UnicodeError) as error:  # UnicodeError if the host name is invalid
        raise Refusal(HTTPStatus.BAD_GATEWAY, f"cannot reach {address}: {error}") from error


async def _read_head(reader: asyncio.StreamReader) -> str:
    """Reads a head: a request line or status line, and header fields up to the empty line.

    Raises Refusal if the head is longer than 64 KiB, if it does not arrive within 30 seconds, or if
    the connection ends before the head is complete.
    """
    try:
        async with asyncio.timeout(_HEAD_TIMEOUT_S):
            return (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except TimeoutError as error:
        raise Refusal(HTTPStatus.REQUEST_TIMEOUT, "the head did not arrive in time") from error
    except asyncio.IncompleteReadError as error:
        raise Refusal(HTTPStatus.BAD_REQUEST, "the connection ended inside the head") from error
    except asyncio.LimitOverrunError as error:
        raise Refusal(HTTPStatus.BAD_REQUEST, f"the head has over {_HEAD_LIMIT} bytes") from error


def _basic(credentials: str) -> str:
    return f"Basic {base64.b64encode(credentials.encode()).decode()}"


def _head(*lines: str) -> bytes:
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


async def _relay(
    one: Connection, other: Connection, change: Callable[[bytes], bytes] | None = None
) -> None:
    """Relays bytes between two connections in both directions, then closes both.

    `change`: changes the bytes from `one` to `other`. Ends when both sides have sent EOF, or when
    one side has disconnected.
    """
    with closing(one.writer), closing(other.writer):
        try:
            async with asyncio.TaskGroup() as directions:
                directions.create_task(_copy(one.reader, other.writer, change))
                directions.create_task(_copy(other.reader, one.writer))
        except* OSError:  # one side has disconnected
            pass


async def _copy(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    change: Callable[[bytes], bytes] | None = None,
) -> None:
    while data := await reader.read(_READ_SIZE):
        writer.write(change(data) if change else data)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()
    else:  # asyncio cannot send EOF on a TLS connection without closing it
        writer.close()
