"""Starts and stops the measured servers, such as the emulator, as subprocesses on free ports."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks import peers
from benchmarks.conditions import Conditions

OURS = "emulator"
PYTHON_SERVER = "llama_cpp.server"
ACCOUNT_ID = "0123456789abcdef0123456789abcdef"
API = f"/client/v4/accounts/{ACCOUNT_ID}/ai"
_START_LIMIT_S = 600  # loading large weights from a slow disk can take minutes
_STOP_LIMIT_S = 30


@dataclass(frozen=True, slots=True)
class ServerSpec:
    """The command that starts a server, and the paths of the server's endpoints.

    `size_flags`: flags of the command, as a format string with the fields `num_slots`,
    `context_length`, and their product `num_cells`. `has_metrics`: whether `Server.metric` works.
    """

    name: str
    command: tuple[str, ...]
    size_flags: str
    chat_path: str
    ready_path: str
    is_concurrent: bool = True
    has_metrics: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)

    def command_for(self, port: int, num_slots: int, context_length: int) -> list[str]:
        size_flags = self.size_flags.format(
            num_slots=num_slots,
            context_length=context_length,
            num_cells=num_slots * context_length,
        )
        return [*self.command, *size_flags.split(), "--port", str(port)]


@dataclass(frozen=True, slots=True)
class Server:
    """A running server. `start_s`: seconds from the start of the process until it was ready."""

    port: int
    spec: ServerSpec
    process: subprocess.Popen[bytes]
    log_path: Path
    start_s: float

    @property
    def chat_path(self) -> str:
        return self.spec.chat_path

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def memory(self) -> int:
        """The resident memory of the server's process in bytes."""
        return int(psutil.Process(self.pid).memory_info().rss)

    @property
    def own_memory(self) -> int | None:
        """The resident memory that is not mapped from a file, in bytes; None if not on Linux."""
        return self._status("RssAnon")

    @property
    def thread_times(self) -> dict[int, float]:
        """The CPU time of each thread of the server in seconds, by thread id."""
        threads = psutil.Process(self.pid).threads()
        return {thread.id: thread.user_time + thread.system_time for thread in threads}

    @property
    def peak_memory(self) -> int:
        """The highest resident memory of the server so far, in bytes.

        On systems other than Linux, returns the present resident memory.
        """
        peak = self._status("VmHWM")
        return self.memory if peak is None else peak

    @property
    def num_accepted_tokens(self) -> int:
        """How many tokens the emulator has guessed right so far; 0 for other servers."""
        if not self.spec.has_metrics:
            return 0
        return int(self.metric("tokens_total", kind="accepted"))

    def run_url(self, model: str) -> str:
        """Returns the URL of the emulator's run endpoint."""
        return f"http://127.0.0.1:{self.port}{API}/run/{model}"

    def metric(self, name: str, **labels: str) -> float:
        """Returns the value of a Prometheus metric of the emulator.

        The value is the sum of all samples that have the given labels.
        """
        url = f"http://127.0.0.1:{self.port}/_emulator/metrics"
        with urllib.request.urlopen(url) as response:
            lines = response.read().decode().splitlines()
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        return sum(
            float(line.rsplit(" ", 1)[1])
            for line in lines
            if line.startswith(f"workers_ai_emulator_{name}{{") and all(w in line for w in wanted)
        )

    def _status(self, name: str) -> int | None:
        """Returns a size from the server's `/proc/PID/status` in bytes.

        Returns None if the file or the field `name` does not exist, as on systems other than Linux.
        """
        path = Path(f"/proc/{self.pid}/status")
        lines = path.read_text().splitlines() if path.exists() else []
        sizes = [line.split()[1] for line in lines if line.startswith(f"{name}:")]
        return int(sizes[0]) * 1024 if sizes else None


def all_specs(conditions: Conditions) -> list[ServerSpec]:
    """Returns the specs of all servers, the emulator first.

    All servers have the same weights, threads and slots. Other settings are the server's defaults.
    """
    return [*concurrent_specs(conditions), python_server(conditions, conditions.weights)]


def concurrent_specs(conditions: Conditions) -> list[ServerSpec]:
    """Returns the specs of servers that compute several requests at a time, the emulator first."""
    return [
        ours(conditions),
        llama_server(conditions, "--no-kv-unified"),
        llama_server(conditions, "--kv-unified"),
    ]


@contextmanager
def running(
    spec: ServerSpec, num_slots: int, context_length: int, log_name: str = "benchmark-server.log"
) -> Iterator[Server]:
    """Starts a server, yields it when it is ready, and stops it after the `with` block.

    The server's output goes to the log file `log_name` in `.cache/`. Raises SystemExit if the
    server does not start.
    """
    port = _free_port()
    command = spec.command_for(port, num_slots, context_length)
    log_path = peers.CACHE / log_name
    log_path.parent.mkdir(exist_ok=True)
    start = time.perf_counter()
    with log_path.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env=os.environ | dict(spec.environment)
        )
    try:
        _wait_until_ready(process, port, spec, log_path)
        yield Server(port, spec, process, log_path, time.perf_counter() - start)
    finally:
        process.terminate()
        try:
            process.wait(_STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def ours(conditions: Conditions, *flags: str) -> ServerSpec:
    """Returns the spec of the emulator; `flags` are added to its command and its name."""
    return ServerSpec(
        " ".join((OURS, *flags)),
        (
            *(sys.executable, "-m", "workers_ai_emulator", "serve", "--log-level", "warning"),
            *("--models-dir", str(conditions.models_dir), "--preload", conditions.model),
            *("--threads", str(conditions.num_threads)),
            *flags,
        ),
        "--parallel {num_slots} --context-length {context_length}",
        f"{API}/v1/chat/completions",
        "/_emulator/readyz",
        has_metrics=True,
    )


def llama_server(conditions: Conditions, cache_flag: str) -> ServerSpec:
    """Returns the spec of llama-server; `cache_flag` is `--kv-unified` or `--no-kv-unified`."""
    return ServerSpec(
        f"{peers.SERVER} {cache_flag}",
        (
            *(str(peers.llama_cpp_program(peers.SERVER)), "--model", str(conditions.weights)),
            *("--threads", str(conditions.num_threads), "--offline", "--no-ui", cache_flag),
        ),
        "--parallel {num_slots} --ctx-size {num_cells}",
        "/v1/chat/completions",
        "/health",
    )


def python_server(conditions: Conditions, weights: Path) -> ServerSpec:
    """Returns the spec of `llama_cpp.server`, which computes one request at a time.

    `weights`: the GGUF file. The server gets the flag `--interrupt_requests false`, because by
    default a new request ends the running request.
    """
    threads = str(conditions.num_threads)
    return ServerSpec(
        PYTHON_SERVER,
        (
            *(sys.executable, "-m", "llama_cpp.server", "--model", str(weights)),
            *("--n_threads", threads, "--n_threads_batch", threads),
            *("--interrupt_requests", "false", "--verbose", "false"),
        ),
        "--n_ctx {context_length}",
        "/v1/chat/completions",
        "/v1/models",
        is_concurrent=False,
        environment={"PYTHONPATH": str(peers.python_server_packages())},
    )


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _wait_until_ready(
    process: subprocess.Popen[bytes], port: int, spec: ServerSpec, log_path: Path
) -> None:
    deadline = time.monotonic() + _START_LIMIT_S
    while not _is_ready(port, spec.ready_path):
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"{spec.name} did not start: see {log_path}")
        time.sleep(0.05)


def _is_ready(port: int, path: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()
