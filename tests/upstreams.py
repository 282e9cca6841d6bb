"""Servers behind the backend `upstream`: real ones, and a stand-in for what those do not do."""

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
# What the extra `server` of the bindings needs beyond our own dependencies.
SERVER_EXTRAS = ("pydantic-settings==2.16.3", "starlette-context==0.3.6")
START_LIMIT_S = 60


@dataclass(frozen=True, slots=True)
class RealServer:
    """A server that computes; `context_length` is that of each of its slots."""

    name: str
    url: str
    context_length: int

    @property
    def is_idle(self) -> bool:
        """Whether it computes nothing; known of llama-server only."""
        slots = httpx.get(self.url.replace("/v1", "/slots"), timeout=60).json()
        return not any(slot["is_processing"] for slot in slots)


@contextmanager
def llama_cpp_server() -> Iterator[RealServer]:
    """`python -m llama_cpp.server`, which computes one request at a time."""
    version = metadata.version(BINDINGS)
    packages = pypi.install(SERVER_EXTRAS, npm.cache_folder(f"llama_cpp.server-{version}-extras"))
    context_length = 1024
    flags = ("--n_ctx", str(context_length), "--verbose", "false", "--interrupt_requests", "false")
    command = [sys.executable, "-m", "llama_cpp.server", "--model", str(weights()), *flags]
    with _running("llama_cpp.server", command, {"PYTHONPATH": str(packages)}, "/v1/models") as url:
        yield RealServer("llama_cpp.server", url, context_length)


@contextmanager
def llama_server() -> Iterator[RealServer]:
    """llama.cpp's own, of two slots, in the folder that `LLAMA_CPP_BIN` names."""
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
    """The URL of its API, once it is ready."""
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
        wait_until(lambda: _answers(process, root + ready_path, log), START_LIMIT_S)
        yield f"{root}/v1"
    finally:
        process.kill()
        process.wait()


def _answers(process: subprocess.Popen[bytes], url: str, log: Path) -> bool:
    assert process.poll() is None, f"it did not start: {log.read_text('utf-8', 'replace')}"
    try:
        return httpx.get(url, timeout=5).is_success
    except httpx.HTTPError:
        return False


# ── the stand-in ──────────────────────────────────────────────────────────────────────────────


class Exchange(BaseHTTPRequestHandler):
    """A request to the stand-in, and the means to answer it in any way."""

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
        """Events as a chunked body, whose end is missing if it is not whole."""
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

    def send_event(self, event: object) -> None:
        text = event if isinstance(event, str) else json.dumps(event)
        data = f"data: {text}\n\n".encode()
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    def stream_until_left(self) -> None:
        """Text without an end; sets `was_left` when nobody is there any more."""
        self.stream(is_whole=False)
        try:
            while True:
                self.send_event(delta("on "))
                self.server.pause.wait(0.01)
        except OSError:
            self.server.was_left.set()

    def wait_until_left(self) -> None:
        """No answer at all; sets `was_left` when nobody is there any more."""
        self.close_connection = True
        if self.connection.recv(1) == b"":
            self.server.was_left.set()

    def log_message(self, *_: object) -> None:
        """Nothing goes to stderr."""


@dataclass(frozen=True, slots=True)
class Request:
    """What the stand-in was asked."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]


def delta(text: str | None, reason: str | None = None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": reason}]}


USAGE = {"choices": [], "usage": {"prompt_tokens": 11, "completion_tokens": 2, "total_tokens": 13}}
WHOLE = (delta(""), delta("Hello"), delta(" you"), delta(None, "stop"), USAGE, "[DONE]")


def answer_well(exchange: Exchange) -> None:
    exchange.stream(*WHOLE)


class _Listener(ThreadingHTTPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False

    def __init__(self, port: int, stand_in: StandIn) -> None:
        self.requests = stand_in.requests
        self.was_left = stand_in.was_left
        self.pause = threading.Event()
        self._stand_in = stand_in
        self._connections: list[socket.socket] = []
        super().__init__(("127.0.0.1", port), Exchange)

    @property
    def behaviour(self) -> Callable[[Exchange], None]:
        return self._stand_in.behaviour

    @property
    def models(self) -> list[str]:
        return self._stand_in.models

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        self._connections.append(connection)
        return connection, address

    def leave_all(self) -> None:
        """Break off every connection that there still is."""
        for connection in self._connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, *_: object) -> None:
        """A client that has left is no news."""


@dataclass
class StandIn:
    """An upstream that answers each request as `behaviour` does."""

    port: int = field(default_factory=free_port)
    models: list[str] = field(default_factory=lambda: ["stand-in"])
    behaviour: Callable[[Exchange], None] = answer_well
    requests: list[Request] = field(default_factory=list)
    was_left: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @contextmanager
    def listening(self) -> Iterator[StandIn]:
        listener = _Listener(self.port, self)
        thread = threading.Thread(target=listener.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield self
        finally:
            listener.shutdown()
            thread.join()
            listener.server_close()
            listener.leave_all()
