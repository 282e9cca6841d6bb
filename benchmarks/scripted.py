"""Compares the speed of the backend `scripted` with that of the mock server @copilotkit/aimock.

Both servers have one rule, and return the same JSON response on persistent connections.
"""

from __future__ import annotations

import asyncio
import json
import logging
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import uvloop

from benchmarks import peers, servers, start, tables
from benchmarks.conditions import MODEL_NAME, Conditions
from benchmarks.servers import Server, ServerSpec

log = logging.getLogger(__name__)

_NUM_CLIENTS = 16
_NUM_WARM_UPS = 200
_TEXT = "Hello! How can I help you today?"
_NATIVE, _CHAT, _PEER, _LIMIT = "emulator, ai/run", "emulator, chat", peers.MOCK, "client alone"
# A minimal server that sends a fixed response to every request. It shows the highest number of
# responses/s that the client can measure.
_FASTEST_SERVER = """
import asyncio, sys
RESPONSE = b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\n{}"
class Connection(asyncio.Protocol):
    def connection_made(self, transport): self.transport = transport
    def data_received(self, data): self.transport.write(RESPONSE)
async def serve():
    loop, port = asyncio.get_running_loop(), int(sys.argv[2])
    await (await loop.create_server(Connection, "127.0.0.1", port)).serve_forever()
import uvloop; uvloop.run(serve())
"""


@dataclass(frozen=True, slots=True)
class Run:
    """The results of one run against one server.

    `latencies`: seconds of each response to a single client. `responses_per_s`: the rate with many
    concurrent clients.
    """

    latencies: list[float]
    responses_per_s: float


def report(conditions: Conditions) -> Iterator[str]:
    """Yields a table with the servers' start times and a table with their response times."""
    specs = _specs()
    yield (
        f"Both servers respond `{_TEXT}` to one message, without streaming, and log nothing. A run "
        f"has {_num_requests(conditions)} requests from one client, then as many from "
        f"{_NUM_CLIENTS} concurrent clients. The servers take turns; the client runs on the same "
        "machine."
    )
    yield _starts(conditions, specs)
    runs: dict[str, list[Run]] = {spec.name: [] for spec in specs}
    for number in range(1, conditions.num_rounds + 1):
        for spec in specs:
            log.info("round %d, %s", number, spec.name)
            with servers.running(spec, num_slots=1, context_length=1) as server:
                runs[spec.name].append(uvloop.run(_run(server, _num_requests(conditions))))
    yield _table({name: _medians(of_server) for name, of_server in runs.items()})


def _table(medians: dict[str, tuple[float, float, float]]) -> str:
    rows = [
        [name, f"{p50:.2f}", f"{p95:.2f}", f"{n:.0f}"] for name, (p50, p95, n) in medians.items()
    ]
    ratios = map(tables.ratio, medians[_CHAT], medians[_PEER])
    headings = ["", "p50, ms", "p95, ms", f"responses/s, {_NUM_CLIENTS} clients"]
    return tables.markdown(headings, [*rows, [f"{_CHAT} / {_PEER}", *ratios]])


def _num_requests(conditions: Conditions) -> int:
    return 500 if conditions.is_quick else 4000


def _specs() -> list[ServerSpec]:
    """Returns the servers to measure.

    They are the emulator with `ai/run`, the emulator with `v1/chat/completions`, the mock server,
    and the minimal server with a fixed response.
    """
    folder = peers.CACHE / "benchmark-scripted"
    folder.mkdir(parents=True, exist_ok=True)
    rules, fixtures = folder / "rules.json", folder / "fixtures.json"
    rules.write_text(json.dumps([{"contains": "hello", "answer": _TEXT}]))
    fixture = {"match": {"userMessage": "hello"}, "response": {"content": _TEXT}}
    fixtures.write_text(json.dumps({"fixtures": [fixture]}))
    serve = (sys.executable, "-m", "workers_ai_emulator", "serve", "--log-level", "warning")
    ours = (*serve, "--backend", "scripted", "--script", str(rules))
    mock = (str(peers.mock_program()), "--log-level", "silent", "--fixtures", str(fixtures))
    ready = "/_emulator/readyz"
    return [
        ServerSpec(_NATIVE, ours, "", f"{servers.API}/run/{MODEL_NAME}", ready),
        ServerSpec(_CHAT, ours, "", f"{servers.API}/v1/chat/completions", ready),
        ServerSpec(_PEER, mock, "", "/v1/chat/completions", "/health"),
        fixed_response_server(),
    ]


def fixed_response_server() -> ServerSpec:
    """Returns the spec of a minimal server that sends a fixed response to every request."""
    return ServerSpec(_LIMIT, (sys.executable, "-c", _FASTEST_SERVER), "", "/", "/")


def _starts(conditions: Conditions, specs: list[ServerSpec]) -> str:
    num_runs = 1 if conditions.is_quick else start.NUM_RUNS
    times: dict[str, list[float]] = {}
    for _ in range(num_runs + 1):  # the first start is not counted: it fills the page cache
        for spec in (specs[0], specs[2]):
            with servers.running(spec, num_slots=1, context_length=1) as server:
                times.setdefault(spec.name.partition(",")[0], []).append(server.start_s)
    rows = [
        [name, f"{statistics.median(of[1:]):.2f}", f"{min(of[1:]):.2f}"]
        for name, of in times.items()
    ]
    return tables.markdown([f"start to ready, {num_runs} times", "median, s", "best, s"], rows)


async def _run(server: Server, num_requests: int) -> Run:
    request = _request(server)
    await _run_client(server.port, request, _NUM_WARM_UPS)
    latencies = await _run_client(server.port, request, num_requests)
    start_s = time.perf_counter()
    each = num_requests // _NUM_CLIENTS
    await asyncio.gather(*(_run_client(server.port, request, each) for _ in range(_NUM_CLIENTS)))
    return Run(latencies, each * _NUM_CLIENTS / (time.perf_counter() - start_s))


def _request(server: Server) -> bytes:
    messages = [{"role": "user", "content": "hello"}]
    body = json.dumps({"model": MODEL_NAME, "messages": messages, "max_tokens": 64}).encode()
    head = (
        f"POST {server.chat_path} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def _run_client(port: int, request: bytes, num_requests: int) -> list[float]:
    """Sends requests one after the other on one connection.

    Returns the seconds that each response took.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    latencies = []
    for _ in range(num_requests):
        start_s = time.perf_counter()
        writer.write(request)
        await _read_response(reader)
        latencies.append(time.perf_counter() - start_s)
    writer.close()
    return latencies


async def _read_response(reader: asyncio.StreamReader) -> None:
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    if not head.startswith(b"http/1.1 200"):
        raise SystemExit(f"the server responded with an error: {head.decode()}")
    _, found, rest = head.partition(b"content-length:")
    if found:
        await reader.readexactly(int(rest.partition(b"\r\n")[0]))
    else:
        await reader.readuntil(b"\r\n0\r\n\r\n")  # the body has chunked encoding


def _medians(runs: list[Run]) -> tuple[float, float, float]:
    """Returns the medians of all runs: p50 and p95 of the latency in ms, and responses/s."""
    p50, p95 = (
        1000 * statistics.median(tables.percentile(run.latencies, p) for run in runs)
        for p in (50, 95)
    )
    return p50, p95, statistics.median(run.responses_per_s for run in runs)
