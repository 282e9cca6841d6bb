"""Sends responses to clients of HTTP/1.0, which cannot read chunks.

If a response has no `content-length`, uvicorn sends its body in chunks (`transfer-encoding:
chunked`). A server must not send chunks to a client of HTTP/1.0 [RFC 9112, 6.1]: the end of the
connection marks the end of the body instead.
"""

from __future__ import annotations

import sys

from starlette.types import Message
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle


def send_without_chunks(response: RequestResponseCycle) -> None:
    """Makes uvicorn send the response's body without chunks, and then close the connection."""
    response.send = _UnchunkedResponse(response).send  # type: ignore[assignment, method-assign]


class _UnchunkedResponse:
    """Makes uvicorn treat a body of unknown length as a body with a very large length.

    uvicorn closes the connection after each response to a request of HTTP/1.0.
    """

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = cycle
        self._send = cycle.send
        self._has_length = True

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            # uvicorn adds `connection: close`.
            headers = [item for item in message["headers"] if item[0].lower() != b"connection"]
            message = {**message, "headers": headers}
            self._has_length = any(name.lower() == b"content-length" for name, _ in headers)
            if not self._has_length:
                self._cycle.chunked_encoding = False
        elif not self._has_length:  # uvicorn compares the sent bytes with this number
            body, is_last = message.get("body", b""), not message.get("more_body", False)
            self._cycle.expected_content_length = len(body) if is_last else sys.maxsize
        await self._send(message)  # type: ignore[arg-type]
