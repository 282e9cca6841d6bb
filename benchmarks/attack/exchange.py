"""A client for HTTP/1.1 that needs little processor time."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

_READ_LIMIT = 2**20
# If the server closes a connection without a response in less than these seconds, it refused the
# connection. If it does so later, the response was lost.
_REFUSAL_LIMIT_S = 5
_OUT_OF_CAPACITY = b'"code":3040'  # in responses of api.cloudflare.com
_OUT_OF_CAPACITY_BARE = b'"internalCode":3040'  # in responses to bindings and of AI Gateway


@dataclass(frozen=True, slots=True)
class Response:
    """A complete response. `body`: the body after the chunked encoding is removed."""

    status: int
    body: bytes

    @property
    def is_out_of_capacity(self) -> bool:
        """Whether the response is the error 3040, out of capacity: clients should try again."""
        return self.status == 429 and (
            _OUT_OF_CAPACITY in self.body or _OUT_OF_CAPACITY_BARE in self.body
        )


class ConnectionRefused(Exception):
    """The server refused the connection, or closed it within 5 s without sending a byte."""


class ResponseLost(Exception):
    """No complete response arrived: it broke off or was late, or the connection was closed."""


class Connection:
    """A persistent connection to the server. The method `send` opens it if it is not open."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def send(self, request: bytes, *, limit_s: float) -> Response:
        """Sends the request, and returns the response.

        After an error, closes the connection and raises ConnectionRefused or ResponseLost.
        """
        is_complete = False
        try:
            response = await self._send(request, limit_s)
            is_complete = True
            return response
        finally:
            if not is_complete:
                self.close()

    def close(self) -> None:
        if self._streams:
            self._streams[1].close()
        self._streams = None

    async def _send(self, request: bytes, limit_s: float) -> Response:
        has_response = False
        start_s = time.monotonic()
        try:
            async with asyncio.timeout(limit_s):
                reader, writer = await self._open()
                writer.write(request)
                first = await reader.readexactly(1)
                has_response = True
                return await read_response(reader, first)
        except TimeoutError as error:  # must be caught before its base class OSError
            raise ResponseLost(f"no response within {limit_s:.0f} s") from error
        except (OSError, EOFError) as error:
            if has_response:
                raise ResponseLost("the response broke off") from error
            if time.monotonic() > start_s + _REFUSAL_LIMIT_S:
                raise ResponseLost("the connection was closed without a response") from error
            raise ConnectionRefused from error

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Returns the open connection. Opens a new one if none is open or the server closed it."""
        if self._streams and self._streams[0].at_eof():
            self.close()
        if not self._streams:
            self._streams = await asyncio.open_connection(
                "127.0.0.1", self._port, limit=_READ_LIMIT
            )
        return self._streams


async def exchange(port: int, request: bytes, *, limit_s: float) -> Response:
    """Sends the request over a new connection, and returns the response.

    Raises ConnectionRefused or ResponseLost.
    """
    connection = Connection(port)
    try:
        return await connection.send(request, limit_s=limit_s)
    finally:
        connection.close()


async def read_response(reader: asyncio.StreamReader, first: bytes = b"") -> Response:
    """Reads the rest of a response that begins with the bytes `first`.

    Raises EOFError if the response breaks off.
    """
    head = first + (await reader.readuntil(b"\r\n\r\n")).lower()
    status = int(head[9:12])
    if b"\r\ntransfer-encoding: chunked" in head:
        return Response(status, await _read_chunks(reader))
    _, found, rest = head.partition(b"\r\ncontent-length:")
    length = int(rest.partition(b"\r\n")[0]) if found else 0
    return Response(status, await reader.readexactly(length))


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    body = bytearray()
    while size := int(await reader.readuntil(b"\r\n"), 16):
        body += (await reader.readexactly(size + 2))[:size]
    await reader.readuntil(b"\r\n")
    return bytes(body)


def post(path: str, body: bytes, *headers: str) -> bytes:
    """Returns the bytes of a POST request with a JSON body."""
    lines = (
        f"POST {path} HTTP/1.1",
        *("Host: 127.0.0.1", "Content-Type: application/json"),
        *(f"Content-Length: {len(body)}", *headers, "", ""),
    )
    return "\r\n".join(lines).encode() + body
