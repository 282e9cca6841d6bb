"""A parser of HTTP requests that ignores the header `Upgrade`, as the server supports no upgrade.

httptools, which is uvicorn's parser, does not read the body of a request with this header. It would
parse the body as the next request. Java's HTTP client sends the header with its first request.
"""

from __future__ import annotations

from typing import Any, Protocol

import httptools


class RequestCallbacks(Protocol):
    """The methods that httptools calls. `headers` are the headers of the current request."""

    headers: list[tuple[bytes, bytes]]

    def on_message_begin(self) -> None: ...
    def on_url(self, url: bytes) -> None: ...
    def on_header(self, name: bytes, value: bytes) -> None: ...
    def on_headers_complete(self) -> None: ...
    def on_body(self, body: bytes) -> None: ...
    def on_message_complete(self) -> None: ...


class RequestParser:
    """Has the methods of httptools' parser that uvicorn calls."""

    def __init__(self, callbacks: RequestCallbacks) -> None:
        self._callbacks = callbacks
        self._parser = _new_parser(callbacks)

    def feed_data(self, data: bytes) -> None:
        """Parses the next bytes of the connection. Raises HttpParserError if they are not HTTP."""
        while data:
            try:
                self._parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as upgrade:
                # The rest of the connection, from the body on, gets a parser of its own.
                self._parser = _new_parser(_WithoutHead(self._callbacks))
                self._parser.feed_data(_head_with_same_body(self._callbacks.headers))
                data = data[upgrade.args[0] :]

    def should_upgrade(self) -> bool:
        """Returns whether httptools treats the request as an upgrade, and so reads no body."""
        return bool(self._parser.should_upgrade())

    def should_keep_alive(self) -> bool:
        return bool(self._parser.should_keep_alive())

    def get_http_version(self) -> str:
        return str(self._parser.get_http_version())

    def get_method(self) -> bytes:
        return bytes(self._parser.get_method())


class _WithoutHead:
    """Passes the callbacks of a parser on, except those for the head of the first request."""

    def __init__(self, callbacks: RequestCallbacks) -> None:
        self._callbacks = callbacks
        self._is_in_first_head = True

    def on_message_begin(self) -> None:
        if not self._is_in_first_head:
            self._callbacks.on_message_begin()

    def on_url(self, url: bytes) -> None:
        if not self._is_in_first_head:
            self._callbacks.on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._is_in_first_head:
            self._callbacks.on_header(name, value)

    def on_headers_complete(self) -> None:
        if not self._is_in_first_head:
            self._callbacks.on_headers_complete()
        self._is_in_first_head = False

    def on_body(self, body: bytes) -> None:
        self._callbacks.on_body(body)

    def on_message_complete(self) -> None:
        self._callbacks.on_message_complete()


def _new_parser(callbacks: Any) -> Any:
    parser = httptools.HttpRequestParser(callbacks)
    # As in uvicorn: data after a request with `Connection: close` are discarded, and are no error.
    parser.set_dangerous_leniencies(lenient_data_after_close=True)
    return parser


def _head_with_same_body(headers: list[tuple[bytes, bytes]]) -> bytes:
    """Returns the head of a request whose body has the same length or form, and no `Upgrade`."""
    kept = [
        name + b": " + value
        for name, value in headers
        if name in (b"content-length", b"transfer-encoding")
    ]
    return b"\r\n".join([b"POST / HTTP/1.1", *kept, b"", b""])
