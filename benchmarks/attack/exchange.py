"""Sends a request over a connection, and reads the response, with little processor time."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

_READ_LIMIT = 2**20
# A server that refuses connections closes them at once; later than this, it has lost a request.
_REFUSAL_LIMIT_S = 5
_OUT_OF_CAPACITY = b'"code":3040'  # with an envelope
_OUT_OF_CAPACITY_BARE = b'"internalCode":3040'  # in responses to bindings and of the gateway


@dataclass(frozen=True, slots=True)
class Response:
    """A complete response; `body` is the body without the headers of its chunks."""

    status: int
    body: bytes

    @property
    def is_out_of_capacity(self) -> bool:
        """Whether this is the error 3040, "capacity", which asks the client to try again."""
        return self.status == 429 and (
            _OUT_OF_CAPACITY in self.body or _OUT_OF_CAPACITY_BARE in self.body
        )


class ConnectionRefused(Exception):
    """The server refused the connection, or closed it within 5 s, before it sent a byte."""


class ResponseLost(Exception):
    """The response broke off, did not arrive in time, or the connection was closed instead."""


async def exchange(port: int, request: bytes, *, limit_s: float) -> Response:
    """Sends the request on a connection of its own, and returns the response.

    The request must have the header `Connection: close`. Raises ConnectionRefused or ResponseLost.
    """
    has_response = False
    writer = None
    start_s = time.monotonic()
    try:
        async with asyncio.timeout(limit_s):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=_READ_LIMIT)
            writer.write(request)
            first = await reader.readexactly(1)
            has_response = True
            return await read_response(reader, first)
    except TimeoutError as error:  # a subclass of OSError
        raise ResponseLost(f"no response within {limit_s:.0f} s") from error
    except (OSError, EOFError) as error:
        if has_response:
            raise ResponseLost("the response broke off") from error
        if time.monotonic() > start_s + _REFUSAL_LIMIT_S:
            raise ResponseLost("the connection was closed without a response") from error
        raise ConnectionRefused from error
    finally:
        if writer:
            writer.close()


async def read_response(reader: asyncio.StreamReader, first: bytes = b"") -> Response:
    """Reads one response, whose first bytes are `first`. Raises EOFError if it breaks off."""
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
    """Returns the bytes of a POST request with a JSON body, on a connection of its own."""
    lines = (
        f"POST {path} HTTP/1.1",
        *("Host: 127.0.0.1", "Connection: close", "Content-Type: application/json"),
        *(f"Content-Length: {len(body)}", *headers, "", ""),
    )
    return "\r\n".join(lines).encode() + body
