"""Servers for tests of the backend `upstream`: real servers, and a fake with scripted errors."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from pathlib import Path
from typing import Any

import httpx
from workers_ai_emulator.models.catalog import CATALOG
from workers_ai_emulator.models.store import Store
from workers_ai_emulator.settings import Settings

from tests import npm, pypi
from tests.server import INT8, wait_until

BINDINGS = "llama-cpp-python"
# Packages that `llama_cpp.server` needs and the emulator does not.
SERVER_EXTRAS = ("pydantic-settings==2.16.3", "starlette-context==0.3.6")
START_LIMIT_S = 60


@dataclass(frozen=True, slots=True)
class RealServer:
    """A running llama_cpp.server or llama-server. `context_length`: the tokens of each slot."""

    name: str
    url: str
    context_length: int

    @property
    def is_idle(self) -> bool:
        """Whether no slot processes a request. Uses an endpoint that only llama-server has."""
        slots = httpx.get(self.url.replace("/v1", "/slots"), timeout=60).json()
        return not any(slot["is_processing"] for slot in slots)


@contextmanager
def llama_cpp_server() -> Iterator[RealServer]:
    """Runs `python -m llama_cpp.server`, which computes one request at a time."""
    version = metadata.version(BINDINGS)
    packages = pypi.install(SERVER_EXTRAS, npm.cache_folder(f"llama_cpp.server-{version}-extras"))
    context_length = 1024
    flags = ("--n_ctx", str(context_length), "--verbose", "false", "--interrupt_requests", "false")
    command = [sys.executable, "-m", "llama_cpp.server", "--model", str(weights()), *flags]
    with _running("llama_cpp.server", command, {"PYTHONPATH": str(packages)}, "/v1/models") as url:
        yield RealServer("llama_cpp.server", url, context_length)


@contextmanager
def llama_server() -> Iterator[RealServer]:
    """Runs llama.cpp's own server, with two slots. `LLAMA_CPP_BIN` names its folder."""
    program = Path(os.environ["LLAMA_CPP_BIN"]) / "llama-server"
    context_length = 1024
    flags = ("--parallel", "2", "--ctx-size", str(2 * context_length), "--offline", "--no-ui")
    command = [str(program), "--model", str(weights()), "--slots", "--no-kv-unified", *flags]
    with _running("llama-server", command, {}, "/health") as url:
        yield RealServer("llama-server", url, context_length)


def weights() -> Path:
    settings = Settings()
    return Store(settings.models_dir, num_threads=settings.threads).weights(CATALOG[INT8]).path


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def _running(
    name: str, command: list[str], environment: dict[str, str], ready_path: str
) -> Iterator[str]:
    """Starts the server, and yields the URL of its API when `ready_path` responds."""
    root = f"http://127.0.0.1:{(port := free_port())}"
    log = npm.cache_folder("upstream-logs") / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--port", str(port)],
            stdout=output,
            stderr=output,
            env=os.environ | environment,
        )
    try:
        wait_until(lambda: _is_ready(process, root + ready_path, log), START_LIMIT_S)
        yield f"{root}/v1"
    finally:
        process.kill()
        process.wait()


def _is_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> bool:
    assert process.poll() is None, f"the server did not start: {log.read_text('utf-8', 'replace')}"
    try:
        return httpx.get(url, timeout=5).is_success
    except httpx.HTTPError:
        return False


# ── the fake server ───────────────────────────────────────────────────────────────────────────


class Exchange(BaseHTTPRequestHandler):
    """Handles one request to the fake server.

    A POST request is passed to the `behaviour` of the test, which sends the response with methods
    such as `stream`.
    """

    protocol_version = "HTTP/1.1"
    server: _Listener

    def do_GET(self) -> None:
        self.answer(200, {"object": "list", "data": [{"id": n} for n in self.server.models]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.requests.append(Request(self.path, headers, body))
        self.server.behaviour(self)

    def answer(self, status: int, body: Any) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def stream(self, *events: object, is_whole: bool = True) -> None:
        """Sends the events with chunked encoding. If `is_whole` is false, omits the last chunk."""
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for event in events:
            self.send_event(event)
        if is_whole:
            self.wfile.write(b"0\r\n\r\n")
        else:
            self.close_connection = True

    def stream_bytes(self, body: bytes, size: int, kind: str = "text/event-stream") -> None:
        """Sends the body in chunks of `size` bytes. `kind`: the content type."""
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for start in range(0, len(body), size):
            part = body[start : start + size]
            self.wfile.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
        self.wfile.write(b"0\r\n\r\n")

    def send_event(self, event: object) -> None:
        text = event if isinstance(event, str) else json.dumps(event)
        data = f"data: {text}\n\n".encode()
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    def stream_until_disconnect(self) -> None:
        """Sends events until the emulator disconnects, then sets the event `was_disconnected`."""
        self.stream(is_whole=False)
        try:
            while True:
                self.send_event(delta("on "))
                self.server.pause.wait(0.01)
        except OSError:
            self.server.was_disconnected.set()

    def wait_for_disconnect(self) -> None:
        """Sends nothing, waits until the emulator disconnects, then sets `was_disconnected`."""
        self.close_connection = True
        if self.connection.recv(1) == b"":
            self.server.was_disconnected.set()

    def log_message(self, *_: object) -> None:
        """Logs nothing."""


@dataclass(frozen=True, slots=True)
class Request:
    """A POST request that the fake server received."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]


def delta(text: str | None, reason: str | None = None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": reason}]}


USAGE = {"choices": [], "usage": {"prompt_tokens": 11, "completion_tokens": 2, "total_tokens": 13}}
WHOLE = (delta(""), delta("Hello"), delta(" you"), delta(None, "stop"), USAGE, "[DONE]")


def send_completion(exchange: Exchange) -> None:
    exchange.stream(*WHOLE)


class _Listener(ThreadingHTTPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False

    def __init__(self, port: int, fake: FakeUpstream) -> None:
        self.requests = fake.requests
        self.was_disconnected = fake.was_disconnected
        self.pause = threading.Event()
        self._fake = fake
        self._connections: list[socket.socket] = []
        super().__init__(("127.0.0.1", port), Exchange)

    @property
    def behaviour(self) -> Callable[[Exchange], None]:
        return self._fake.behaviour

    @property
    def models(self) -> list[str]:
        return self._fake.models

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        self._connections.append(connection)
        return connection, address

    def disconnect_all(self) -> None:
        """Shuts down all connections of the fake server."""
        for connection in self._connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, *_: object) -> None:
        """Prints nothing if a client has closed its connection."""


@dataclass
class FakeUpstream:
    """A fake upstream server. It passes each POST request to the function `behaviour`."""

    port: int = field(default_factory=free_port)
    models: list[str] = field(default_factory=lambda: ["fake"])
    behaviour: Callable[[Exchange], None] = send_completion
    requests: list[Request] = field(default_factory=list)
    was_disconnected: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @contextmanager
    def listening(self) -> Iterator[FakeUpstream]:
        listener = _Listener(self.port, self)
        thread = threading.Thread(target=listener.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield self
        finally:
            listener.shutdown()
            thread.join()
            listener.server_close()
            listener.disconnect_all()
