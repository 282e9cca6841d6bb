"""Runs `workers-ai-emulator serve` in a separate process, on a free port."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx

ACCOUNT_ID = "0123456789abcdef0123456789abcdef"
INT8 = "@cf/meta/llama-2-7b-chat-int8"
FP16 = "@cf/meta/llama-2-7b-chat-fp16"
CONTEXT_LENGTH = 2048  # of the fixture `server`
START_LIMIT_S = 120

# A request whose completion always has max_tokens tokens, because the stand-in model repeats the
# numbers.
ENDLESS = {"prompt": "1 2 3 4 " * 4, "raw": True, "max_tokens": 1500, "temperature": 0}


@dataclass
class ServerProcess:
    """A running `workers-ai-emulator serve`. `log`: the lines that it has written to stderr."""

    process: subprocess.Popen[str]
    base_url: str
    log: list[str] = field(default_factory=list)

    @property
    def root(self) -> str:
        return self.base_url.removesuffix("/client/v4")

    def run_url(self, model: str = INT8) -> str:
        return f"{self.base_url}/accounts/{ACCOUNT_ID}/ai/run/{model}"

    def run(self, body: object, model: str = INT8) -> httpx.Response:
        return self.post(self.run_url(model), body)

    def post(
        self, url: str, body: object, headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        return httpx.post(url, json=body, headers=headers, timeout=120)

    def reset(self) -> None:
        """Discards what earlier requests have changed, such as rules, faults and the journal."""
        httpx.post(f"{self.root}/_emulator/reset", timeout=60).raise_for_status()

    def outcomes(self) -> list[tuple[int | None, str | None]]:
        """Returns the status and the outcome of each call in the journal."""
        rows = httpx.get(f"{self.root}/_emulator/requests", timeout=60).json()["requests"]
        return [(row["status"], row["outcome"]) for row in rows]

    def set_script(self, *rules: Mapping[str, object]) -> None:
        url = f"{self.root}/_emulator/script"
        httpx.post(url, json=[*rules], timeout=60).raise_for_status()

    def connect(self, body: object, model: str = INT8, *, is_whole: bool = True) -> socket.socket:
        """Sends a request to `ai/run` and returns the socket. Closing the socket disconnects.

        If `is_whole` is false, does not send the last byte of the body.
        """
        url = httpx.URL(self.run_url(model))
        data = json.dumps(body).encode()
        head = f"POST {url.path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n"
        connection = socket.create_connection((url.host, url.port or 80))
        connection.sendall(head.encode() + (data if is_whole else data[:-1]))
        return connection

    def wait_for_line(self, *texts: str) -> None:
        """Waits until a line of the log contains all texts. A line may follow its response late."""
        wait_until(lambda: any(all(t in line for t in texts) for line in list(self.log)))

    def metric(self, name: str, **labels: str) -> float:
        """Returns the sum of those samples of a Prometheus metric that have these labels."""
        text = httpx.get(f"{self.root}/_emulator/metrics", timeout=60).text
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        samples = [line for line in text.splitlines() if line.startswith(f"{name}{{")]
        return sum(
            float(line.rsplit(" ", 1)[1]) for line in samples if all(w in line for w in wanted)
        )


def command(*flags: str, python: str = sys.executable) -> list[str]:
    return [python, "-m", "workers_ai_emulator", "serve", "--port", "0", *flags]


@contextmanager
def server_process(
    *flags: str, max_files: int | None = None, python: str = sys.executable
) -> Iterator[ServerProcess]:
    """Starts a server, yields it when it has printed its base URL, and stops it with SIGTERM.

    `max_files`: how many files the server may open; None for the system's limit. `python`: the
    interpreter that runs the server.
    """
    ulimit = ["bash", "-c", f'ulimit -n {max_files}; exec "$@"', "bash"] if max_files else []
    process = subprocess.Popen(
        [*ulimit, *command(*flags, python=python)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout and process.stderr
    server = ServerProcess(process, "")
    reader = threading.Thread(target=server.log.extend, args=(process.stderr,))
    reader.start()
    watchdog = threading.Timer(START_LIMIT_S, process.kill)
    watchdog.start()
    try:
        server.base_url = process.stdout.readline().strip()
        watchdog.cancel()
        assert server.base_url, f"the server did not start: {''.join(server.log)}"
        yield server
    finally:
        watchdog.cancel()
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        reader.join()
        process.stdout.close()
        process.stderr.close()


def wait_until(is_met: Callable[[], bool], limit_s: float = 20) -> None:
    """Waits until the condition is true. Fails after `limit_s` seconds."""
    deadline = time.monotonic() + limit_s
    while not is_met():
        assert time.monotonic() < deadline, "the condition was not met in time"
        time.sleep(0.02)
