"""A fake Hugging Face hub on this machine, for tests of downloads.

As on the real hub, files are at `/{repo}/resolve/{revision}/{path}`. A HEAD request gets headers
with the commit, the size and the SHA-256; a GET request gets the bytes. Each GET request takes the
next fault from the list `faults`, and succeeds if the list is empty.
"""

from __future__ import annotations

import hashlib
import re
import socket
import struct
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

REPO = "someone/Some-Model-GGUF"
PATH = "some-model.Q8_0.gguf"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_good"
_PIECE_BYTES = 2**15


@dataclass(frozen=True, slots=True)
class Fault:
    """The way in which one request fails, after `num_bytes` correct bytes of the body."""

    kind: str  # cut, reset, stall, corrupt, longer, whole (ignores Range), none, or a status
    num_bytes: int = 0


@dataclass
class FakeHub:
    """A fake hub with one file: its faults, and the requests that it received."""

    content: bytes
    faults: list[Fault] = field(default_factory=list)
    head_faults: list[Fault] = field(default_factory=list)
    is_gated: bool = False
    needs_redirect: bool = False
    missing_headers: frozenset[str] = frozenset()
    announced: Mapping[str, str] = field(default_factory=dict)  # wrong headers of the file
    pause_s: float = 0.0  # pause after each 32 KiB of the body
    url: str = ""
    storage_url: str = ""  # the URL of a second server, to which downloads may be redirected
    requests: list[tuple[str, str, Mapping[str, str]]] = field(default_factory=list)
    num_bytes_sent: int = 0
    is_closing: threading.Event = field(default_factory=threading.Event)

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def gets(self) -> list[Mapping[str, str]]:
        """The headers of all GET requests, in order."""
        return [headers for method, _, headers in self.requests if method == "GET"]

    @property
    def ranges(self) -> list[str | None]:
        """The Range header of each GET request; None if the request had none."""
        return [headers.get("range") for headers in self.gets]

    def file_headers(self) -> dict[str, str]:
        headers = {
            "X-Repo-Commit": COMMIT,
            "X-Linked-Etag": f'"{self.sha256}"',
            "X-Linked-Size": str(len(self.content)),
            **self.announced,
        }
        return {k: v for k, v in headers.items() if k not in self.missing_headers}


@contextmanager
def fake_hub(content: bytes, **behaviour: object) -> Iterator[FakeHub]:
    """Runs a fake hub with one file. `behaviour`: values for the fields of `FakeHub`."""
    hub = FakeHub(content, **behaviour)  # type: ignore[arg-type]  # the caller's keywords
    with _serving(hub) as hub.url, _serving(hub, is_storage=True) as hub.storage_url:
        try:
            yield hub
        finally:
            hub.is_closing.set()


@contextmanager
def _serving(hub: FakeHub, *, is_storage: bool = False) -> Iterator[str]:
    class Handler(_Handler):
        pass

    Handler.hub, Handler.is_storage = hub, is_storage
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        hub.is_closing.set()
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    is_storage: bool
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        # The send buffer is small, because a TCP reset drops all unsent bytes in the buffer.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _PIECE_BYTES)

    def do_HEAD(self) -> None:
        self._note()
        if fault := self.hub.head_faults.pop(0) if self.hub.head_faults else None:
            self._fail(fault)
        elif not self._refuse():
            headers = self.hub.file_headers()
            if self.hub.needs_redirect:
                self._answer(302, headers | {"Location": self._storage(), "Content-Length": "0"})
            else:
                self._answer(200, headers | {"Content-Length": str(len(self.hub.content))})

    def do_GET(self) -> None:
        self._note()
        if self.is_storage or not self.hub.needs_redirect:
            if self.is_storage or not self._refuse():
                self._send_file(self.hub.faults.pop(0) if self.hub.faults else Fault("none"))
        elif not self._refuse():
            self._answer(302, {"Location": self._storage(), "Content-Length": "0"})

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _note(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.hub.requests.append((self.command, self.path, headers))

    def _storage(self) -> str:
        return f"{self.hub.storage_url}/blob"

    def _refuse(self) -> bool:
        """Sends an error if the file does not exist or the client has no access to it.

        Returns whether it sent an error.
        """
        match = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.path)
        if match is None or match[1] != REPO:
            self._error(401, "RepoNotFound")
        elif self.hub.is_gated and self.headers["Authorization"] != f"Bearer {TOKEN}":
            self._error(401, "GatedRepo")
        elif match[2] not in (COMMIT, "main"):
            self._error(404, "RevisionNotFound")
        elif match[3] != PATH:
            self._error(404, "EntryNotFound")
        else:
            return False
        return True

    def _error(self, status: int, code: str) -> None:
        self._answer(status, {"X-Error-Code": code, "Content-Length": "0"})

    def _fail(self, fault: Fault) -> None:
        if fault.kind == "stall":
            self._wait()
        elif fault.kind == "reset":
            self._reset()
        else:
            self._answer(int(fault.kind), {"Content-Length": "0"})

    def _answer(self, status: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _send_file(self, fault: Fault) -> None:
        if fault.kind.isdigit():
            self._answer(int(fault.kind), {"Content-Length": "0"})
            return
        content = self.hub.content
        if fault.kind == "corrupt":
            wrong = content[fault.num_bytes] ^ 1
            content = content[: fault.num_bytes] + bytes([wrong]) + content[fault.num_bytes + 1 :]
        if fault.kind == "longer":
            content += b"more"
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(match[1]) if match and fault.kind != "whole" else 0
        if start >= len(content):
            self._answer(416, {"Content-Length": "0", "Content-Range": f"bytes */{len(content)}"})
            return
        headers = {"Content-Length": str(len(content) - start)}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self._answer(206 if start else 200, headers)
        is_broken = fault.kind in ("cut", "reset", "stall")
        self._send(content[start : start + fault.num_bytes] if is_broken else content[start:])
        if is_broken:
            self._break_off(fault.kind)

    def _send(self, body: bytes) -> None:
        for begin in range(0, len(body), _PIECE_BYTES):
            piece = body[begin : begin + _PIECE_BYTES]
            try:
                self.wfile.write(piece)
            except OSError:  # the client disconnected
                self.close_connection = True
                return
            self.hub.num_bytes_sent += len(piece)
            if self.hub.pause_s:
                time.sleep(self.hub.pause_s)

    def _break_off(self, kind: str) -> None:
        if kind == "stall":
            self._wait()
        elif kind == "reset":
            self._reset()
        self.close_connection = True

    def _reset(self) -> None:
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.connection.close()
        self.close_connection = True

    def _wait(self) -> None:
        self.hub.is_closing.wait(30)
        self.close_connection = True
