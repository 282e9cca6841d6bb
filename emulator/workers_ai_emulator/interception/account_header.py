"""Adds the header `x-emulator-account` to the HTTP/1.1 requests in a stream of bytes."""

from __future__ import annotations

import re

from workers_ai_emulator.wire.accounts import ACCOUNT_HEADER

_LENGTH = re.compile(rb"^content-length:[ \t]*(\d+)[ \t]*\r?$", re.IGNORECASE | re.MULTILINE)
_CHUNKED = re.compile(rb"^transfer-encoding:.*chunked[ \t]*\r?$", re.IGNORECASE | re.MULTILINE)
_END_OF_HEAD = b"\r\n\r\n"
_MAX_LINE = 2**16


class AccountHeader:
    """Adds the header to each request of a connection. Everything else passes unchanged.

    The header is added after all other headers of the request. If the program has set a header of
    the same name, the emulator therefore reads the program's header, which comes first. If this
    class cannot find the end of a request, it passes on the rest of the stream unchanged, and the
    emulator refuses the request.
    """

    def __init__(self, account: str) -> None:
        self._line = f"{ACCOUNT_HEADER}: {account}\r\n".encode()
        self._buffer = b""
        self._read = self._read_head
        self._num_left = 0  # bytes until the end of the body or of the chunk

    def feed(self, data: bytes) -> bytes:
        """Returns the bytes to send for the next received bytes, however these were cut."""
        self._buffer += data
        parts: list[bytes] = []
        while (part := self._read()) is not None:
            parts.append(part)
        return b"".join(parts)

    def _read_head(self) -> bytes | None:
        """Returns the next request's head with the header, or None if it is not complete."""
        head, is_whole, _ = self._buffer.partition(_END_OF_HEAD)
        if not is_whole:
            return self._give_up() if len(self._buffer) > _MAX_LINE else None
        self._take(len(head) + len(_END_OF_HEAD))
        if _CHUNKED.search(head):
            self._read = self._read_chunk_size
        elif length := _LENGTH.search(head):
            self._num_left, self._read = int(length[1]), self._read_body
        return head + b"\r\n" + self._line + b"\r\n"

    def _read_body(self) -> bytes | None:
        if self._num_left == 0:
            self._read = self._read_head
            return b""
        return self._take_left()

    def _read_chunk_size(self) -> bytes | None:
        line, is_whole, _ = self._buffer.partition(b"\r\n")
        if not is_whole:
            return self._give_up() if len(self._buffer) > _MAX_LINE else None
        try:
            size = int(line.partition(b";")[0], 16)
        except ValueError:
            return self._give_up()
        if size:
            self._num_left, self._read = size + len(b"\r\n"), self._read_chunk
        else:
            self._read = self._read_trailer
        return self._take(len(line) + len(b"\r\n"))

    def _read_chunk(self) -> bytes | None:
        if self._num_left == 0:
            self._read = self._read_chunk_size
            return b""
        return self._take_left()

    def _read_trailer(self) -> bytes | None:
        """Returns the next line after the last chunk. An empty line ends the request."""
        line, is_whole, _ = self._buffer.partition(b"\r\n")
        if not is_whole:
            return self._give_up() if len(self._buffer) > _MAX_LINE else None
        if not line:
            self._read = self._read_head
        return self._take(len(line) + len(b"\r\n"))

    def _take_left(self) -> bytes | None:
        part = self._take(min(self._num_left, len(self._buffer)))
        self._num_left -= len(part)
        return part or None

    def _take(self, number: int) -> bytes:
        taken, self._buffer = self._buffer[:number], self._buffer[number:]
        return taken

    def _take_all(self) -> bytes | None:
        return self._take(len(self._buffer)) or None

    def _give_up(self) -> bytes | None:
        self._read = self._take_all
        return self._take_all()
