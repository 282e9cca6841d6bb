"""Sends responses to Workers so that a Worker gets each chunk of the body in a single read.

workerd, which runs Workers, reads 32 bytes from the socket to get the line with a chunk's size
[capnproto, kj/compat/http.c++, MAX_CHUNK_HEADER_SIZE]. If the line is shorter, the 32 bytes also
contain the beginning of the chunk's data:

    uvicorn's chunk:  \\r\\n 1 a \\r\\n d a t a : ...   the 32 bytes contain a part of the event
    our chunk:        \\r\\n 0 0 ... 0 1 a \\r\\n       the event begins after the 32 bytes

For uvicorn's chunk, the Worker's `reader.read()` returns only this part of the event, and the next
`reader.read()` returns the rest. Our chunks have leading zeros in the size, so that the line fills
the 32 bytes. The first two of the 32 bytes are the line break that ends the previous chunk. The
server sends this line break together with the next chunk, because workerd could otherwise read it
separately.

Clients other than Workers get uvicorn's chunks, for two reasons. Some clients refuse a size of more
than 16 or 20 digits: curl, Go's `net/http` and h11, which httpx uses. Other clients, such as
urllib3, return a chunk only after they have received the line break that ends the chunk, so they
would return each of our chunks too late.
"""

from __future__ import annotations

from collections.abc import Sequence

from starlette.types import Message
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

_READ_SIZE = 32  # workerd's MAX_CHUNK_HEADER_SIZE
_LINE_BREAK = b"\r\n"

_LENGTH_HEADERS = {b"content-length", b"transfer-encoding"}
# Proxies add these headers. If a proxy forwards a Worker's request, the chunks of the response are
# read by the proxy, not by the Worker.
_PROXY_HEADERS = {b"forwarded", b"via", b"x-forwarded-for"}


def is_from_worker(names: Sequence[bytes]) -> bool:
    """Returns whether a POST request comes directly from a Worker, judging by its headers.

    `names` are the headers' names in lower case, in the order of their arrival. Returns True if
    three conditions are met:
      - The first header is `content-length` or `transfer-encoding`, and the second is `host`. This
        is workerd's order [capnproto, kj/compat/http.h, KJ_HTTP_FOR_EACH_BUILTIN_HEADER]. Most
        other clients send `host` first, as RFC 9110 recommends.
      - There is no `user-agent`, or there is also a `cf-worker`. Other clients with workerd's order
        send a `user-agent`. If a Worker sends a `user-agent`, Miniflare adds `cf-worker`
        [workers-sdk#12186].
      - There is no header that proxies add.
    """
    is_workerd = len(names) > 1 and names[0] in _LENGTH_HEADERS and names[1] == b"host"
    has_agent = b"user-agent" in names and b"cf-worker" not in names
    return is_workerd and not has_agent and _PROXY_HEADERS.isdisjoint(names)


def align_chunks(response: RequestResponseCycle) -> None:
    """Makes uvicorn send the response's body so that a Worker gets each chunk in a single read."""
    response.send = _AlignedResponse(response).send  # type: ignore[assignment, method-assign]


class _AlignedResponse:
    """Writes the chunks of one response. uvicorn writes the head and the last, empty chunk."""

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = cycle
        self._send = cycle.send
        self._line_break = b""  # ends the previous chunk; empty before the first chunk

    async def send(self, message: Message) -> None:
        is_body = message["type"] == "http.response.body"
        if is_body and self._cycle.chunked_encoding and not self._cycle.disconnected:
            self._write(message.get("body", b""), is_last=not message.get("more_body", False))
            message = {**message, "body": b""}
        await self._send(message)  # type: ignore[arg-type]

    def _write(self, body: bytes, *, is_last: bool) -> None:
        data = b""
        if body:
            num_digits = _READ_SIZE - len(self._line_break) - len(_LINE_BREAK)
            data = b"%b%0*x\r\n%b" % (self._line_break, num_digits, len(body), body)
            self._line_break = _LINE_BREAK
        self._cycle.transport.write(data + self._line_break if is_last else data)
