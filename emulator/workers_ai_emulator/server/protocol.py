"""uvicorn's HTTP protocol, extended: it reports what the server waits for on each connection."""

from __future__ import annotations

import socket
import struct
import sys
import time
import weakref
from dataclasses import dataclass
from enum import Enum, auto
from http import HTTPStatus
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from workers_ai_emulator.server.chunks import align_chunks, is_from_worker
from workers_ai_emulator.server.parser import RequestParser
from workers_ai_emulator.server.unchunked import send_without_chunks
from workers_ai_emulator.wire.connection import store_connection

# The value of SO_LINGER with which closing a socket sends a TCP reset: on, for 0 seconds.
_RESET_ON_CLOSE = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)

# How many bytes the head of a request may have. The same limit applies to the trailers after a body
# in chunks. Without it, the parser would keep an endless header in memory, and copy it again for
# each part that arrives.
_MAX_HEAD_BYTES = 2**16
# How many bytes are parsed at once. If a head begins inside such a part, after an earlier request,
# its bytes in this part do not count for the limit.
_PART_BYTES = 2**14


class Wait(Enum):
    """What the server is waiting for on a connection."""

    HEAD = auto()  # the client must send the rest of a request's head
    BODY = auto()  # the client must send more of a request's body
    REQUEST = auto()  # the client may send the next request
    # The client must read what has been sent: all buffers are full, or the server has sent
    # everything, and closes the connection as soon as the rest is read.
    READING = auto()
    SERVER = auto()  # not waiting for the client: the server must read, or work on the response


@dataclass(frozen=True, slots=True)
class TimeLimits:
    """How many seconds the server waits for a client before it closes the connection.

    `silence`: from the start of a connection to its first byte.
    `head`: from the first byte to the last byte of a request's head.
    `body`: from the first byte of a request to the last byte of its body.
    `pause`: from one part of a request's body to the next part.
    `request`: from the end of a response to the first byte of the next request.
    `reading`: while all buffers are full, or before the end of the connection, until the client
    reads something.
    """

    silence: float = 20.0
    head: float = 20.0
    body: float = 300.0
    pause: float = 30.0
    request: float = 75.0
    reading: float = 60.0


class Protocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol, extended: `wait` reports what the server is waiting for."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.parser = RequestParser(self)  # type: ignore[assignment]
        # False until the first bytes have been read. The acceptor has waited until they arrived: a
        # connection closed before they are read would be reset, and its response would be lost.
        self._has_received = False
        self._is_in_head = True
        # How many bytes have been parsed since the end of the last head, part of a body or request:
        # the bytes of a head or of trailers that are not complete yet.
        self._num_incomplete = 0
        # The request that the application is handling or has handled last. uvicorn's `self.cycle`
        # may be a later request, which the client has already sent (pipelining).
        self._running: RequestResponseCycle | None = None
        self._began = dict.fromkeys(Wait, time.monotonic())
        self._num_unsent = 0  # bytes in the transport's buffer at the last `observe_reading`
        self._is_aborted = False
        # The reference is weak so that scopes do not keep closed connections in memory.
        self._weak_self = weakref.proxy(self)

    @property
    def wait(self) -> Wait:
        """What the server is now waiting for on this connection."""
        cycle = self._running
        if not self._has_received:
            return Wait.SERVER
        if self.flow.write_paused or self.transport.is_closing():
            return Wait.READING
        if cycle is None or cycle.response_complete:
            return Wait.HEAD if self._is_in_head else Wait.REQUEST
        # The server does not wait for more of the body if uvicorn has paused reading, or if the
        # client is waiting for `100 Continue`: the application must act first.
        is_paused = self.flow.read_paused or cycle.waiting_for_100_continue
        return Wait.BODY if cycle.more_body and not is_paused else Wait.SERVER

    @property
    def wait_began(self) -> float:
        """When the current wait began, as a value of `time.monotonic`."""
        return self._began[self.wait]

    @property
    def is_ending(self) -> bool:
        """Whether the connection is closing, and does not wait for the client to read.

        Also true if the bytes that the client must read were written after the last call of
        `observe_reading`, because most clients read a response as soon as it arrives.
        """
        return self._is_aborted or (self.transport.is_closing() and not self._num_unsent)

    def observe_reading(self) -> None:
        """Notes whether the client has read something since the last call.

        Must be called every second or so, because the transport does not report that the client
        has read a part of a long response, or that a closing connection waits for the client.
        """
        num_unsent = self.transport.get_write_buffer_size()
        if num_unsent != self._num_unsent:
            self._num_unsent = num_unsent
            self._began[Wait.READING] = time.monotonic()

    def is_overdue(self, limits: TimeLimits, now: float) -> bool:
        """Returns whether the server has waited for the client longer than the limits allow."""
        waited = now - self.wait_began
        match self.wait:
            case Wait.HEAD:
                return waited > limits.head
            case Wait.BODY:
                return waited > limits.pause or now - self._began[Wait.HEAD] > limits.body
            case Wait.REQUEST:
                return waited > limits.request
            case Wait.READING:
                return waited > limits.reading
            case Wait.SERVER:
                return False

    def close(self, status: HTTPStatus) -> None:
        """Closes the connection. Aborts it if it is already closing, or if all buffers are full.

        If the client has not sent all of its request, and no response has begun, first sends a
        response with `status`. The application receives the ASGI message `http.disconnect`.
        """
        if self.transport.is_closing() or self.flow.write_paused:
            self.abort()  # `transport.close` would wait for the client to read the response
            return
        is_started = self._running and self._running.response_started
        if self.wait is Wait.HEAD or (self.wait is Wait.BODY and not is_started):
            self.transport.write(plain_response(status))
        self.transport.close()

    def abort(self) -> None:
        """Closes the connection, and discards the bytes that have not been sent yet."""
        self._is_aborted = True
        self._disconnect()
        self.transport.abort()

    def reset(self) -> None:
        """Closes the connection with a TCP reset, which the client sees as a connection error."""
        if self not in self.connections:  # the client has already closed the connection
            return
        connection = self.transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self.abort()

    def _disconnect(self) -> None:
        """Makes the application receive the ASGI message `http.disconnect`."""
        if self._running and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()

    # The following methods override methods of uvicorn. asyncio, the HTTP parser and the response
    # call them.

    def connection_lost(self, exc: Exception | None) -> None:
        self._disconnect()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._has_received = True
        self._began[Wait.BODY] = time.monotonic()
        start = 0
        while start < len(data) and not self.transport.is_closing():
            if self._num_incomplete >= _MAX_HEAD_BYTES:
                self.close(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
                return
            end = start + min(_PART_BYTES, _MAX_HEAD_BYTES - self._num_incomplete)
            part, start = data[start:end], end
            self._num_incomplete += len(part)
            super().data_received(part)

    def on_message_begin(self) -> None:
        self._is_in_head = True
        self._began[Wait.HEAD] = time.monotonic()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._is_in_head = False
        self._num_incomplete = 0
        store_connection(self.scope, self._weak_self)
        self._apply_absolute_form()
        super().on_headers_complete()
        if self.scope["http_version"] != "1.1":
            send_without_chunks(self.cycle)
        elif is_from_worker([name for name, _ in self.headers]):
            align_chunks(self.cycle)

    def _apply_absolute_form(self) -> None:
        """Replaces the header `Host` by the host of a target such as `http://localhost:8790/run`.

        Clients send such a target to a proxy. A server must ignore the header then [RFC 9112,
        3.2.2], and must check the host of the target instead.
        """
        if self.url.startswith((b"/", b"*")):
            return
        target = httptools.parse_url(self.url)
        if not target.host:
            return
        host = b"[%b]" % target.host if b":" in target.host else target.host
        authority = b"%b:%d" % (host, target.port) if target.port else host
        self.headers[:] = [(name, value) for name, value in self.headers if name != b"host"]
        self.headers.insert(0, (b"host", authority))
        self.url = (target.path or b"/") + (b"?%b" % target.query if target.query else b"")

    def on_body(self, body: bytes) -> None:
        self._num_incomplete = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._num_incomplete = 0
        if not self.parser.should_upgrade():  # otherwise only the head is complete
            super().on_message_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        # If the request arrived while an earlier one was running, the waiting begins only now.
        self._began[Wait.HEAD] = self._began[Wait.BODY] = time.monotonic()
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        self._began[Wait.REQUEST] = time.monotonic()
        super().on_response_complete()

    def pause_writing(self) -> None:
        self._began[Wait.READING] = time.monotonic()
        super().pause_writing()


def plain_response(status: HTTPStatus) -> bytes:
    """Returns the bytes of a plain-text response that contains the name of the status.

    The response announces that the connection is closed. uvicorn responds to malformed requests in
    the same form.
    """
    text = status.phrase
    return (
        f"HTTP/1.1 {status.value} {text}\r\ncontent-type: text/plain; charset=utf-8\r\n"
        f"content-length: {len(text)}\r\nconnection: close\r\n\r\n{text}"
    ).encode()
