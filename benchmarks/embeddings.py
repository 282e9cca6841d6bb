"""Measures embeddings: their speed beside other servers, and what they cost a running stream.

The other servers are llama-server and `llama_cpp.server`, which is written in Python. All servers
run all-MiniLM-L6-v2, the stand-in model for embeddings, with the same GGUF file.
"""

from __future__ import annotations

import itertools
import json
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial

import httpx
from workers_ai_emulator.models.stand_in import embedding_stand_in

from benchmarks import peers, servers, tables
from benchmarks.conditions import Conditions
from benchmarks.servers import API, Server, ServerSpec

_MODEL = "@cf/baai/bge-small-en-v1.5"  # it has the dimensions of all-MiniLM-L6-v2
_NUM_TEXTS = 100  # the most texts that the service documents for a request
_CONTEXT_LENGTH = 512
_WORDS = (
    "the",
    "client",
    "compares",
    "the",
    "vectors",
    "of",
    "the",
    "texts",
    "by",
    "their",
    "angle",
)
# The requests: how many new texts each one has, and the numbers of words of the texts.
_REQUESTS = {
    "1 text of 10 words": (1, [10]),
    "1 text of 100 words": (1, [100]),
    "16 texts of 10 words": (16, [10]),
    "16 texts of 100 words": (16, [100]),
    "100 texts of 10 words": (100, [10]),
    "100 texts of 100 words": (100, [100]),
    "100 texts of 10 to 300 words": (100, [10, 30, 100, 300]),
}
_REPEATED = "100 texts of 100 words that were sent before"
# The requests that many clients also send, all at the same time.
_SENT_BY_MANY = ("1 text of 10 words", "1 text of 100 words")
_NUM_CLIENTS = 16
# The number that each text begins with, which no other text has. All numbers have six digits.
_numbers = itertools.count(100_000)
_HEADINGS = ["a request", "emulator: texts/s", "llama-server: texts/s"]
_HEADINGS += [f"{servers.PYTHON_SERVER}: texts/s", "emulator / llama-server"]
_HEADINGS += [f"emulator / {servers.PYTHON_SERVER}"]
_MIN_TURNS = 5
_MIN_S = 0.5  # short requests are repeated in a turn for at least this time
_MANY_S = 2.0  # how long many clients send requests in a turn
_GAP_HEADINGS = ["the stream runs", "tokens/s", "gap p50 (ms)", "gap p95 (ms)", "longest gap (ms)"]
_STREAM_TOKENS = 300
_TIMEOUT_S = 600


def report(conditions: Conditions) -> Iterator[str]:
    """Yields a table with the speed of embeddings, and one with the gaps of a stream beside them.

    Raises SystemExit if a server does not start or refuses a request.
    """
    num_turns = 1 if conditions.is_quick else max(conditions.num_rounds, _MIN_TURNS)
    yield (
        f"One client sends requests one after the other, or {_NUM_CLIENTS} clients do so at the "
        f"same time. The servers take turns: in each of {num_turns} turns, each server gets "
        f"requests for {_MIN_S} seconds, and at least one, or for {_MANY_S} seconds from "
        f"{_NUM_CLIENTS} clients; texts/s is the median. llama-server is measured with as many "
        "slots as threads, and with 16 slots; the table has the better figure. Each ratio is the "
        "median of the ratios of all turns."
    )
    yield tables.markdown(_HEADINGS, speeds(conditions, num_turns))
    yield (
        f"A client streams a completion of {_STREAM_TOKENS} tokens from the emulator, once alone "
        f"and once while another client requests the embeddings of {_NUM_TEXTS} texts of 100 "
        "words, again and again."
    )
    yield tables.markdown(_GAP_HEADINGS, stream_gaps(conditions))


def texts(num_texts: int, lengths: Sequence[int]) -> list[str]:
    """Returns new texts whose numbers of words are `lengths`, again and again.

    The emulator keeps the embeddings of recent texts, so no text may occur twice.
    """
    counts = itertools.islice(itertools.cycle(lengths), num_texts)
    return [
        " ".join([str(next(_numbers)), *itertools.islice(itertools.cycle(_WORDS), count - 1)])
        for count in counts
    ]


def speeds(conditions: Conditions, num_turns: int) -> list[list[str]]:
    """Returns the rows of the table that compares the servers."""
    slots = (conditions.num_threads, 16)
    specs = [servers.ours(conditions), _python_server(conditions)]
    specs += [_llama_server(conditions, n) for n in slots]
    known = texts(_NUM_TEXTS, [100])
    measurements: dict[str, Callable[[Server], float]] = {
        **{name: partial(_texts_per_s, partial(texts, *r)) for name, r in _REQUESTS.items()},
        _REPEATED: partial(_texts_per_s, lambda: known),
        **{
            f"{_NUM_CLIENTS} clients: {name}": partial(
                _texts_per_s_of_many, partial(texts, *_REQUESTS[name])
            )
            for name in _SENT_BY_MANY
        },
    }
    with ExitStack() as stack:
        running = [stack.enter_context(servers.running(spec, 1, _CONTEXT_LENGTH)) for spec in specs]
        for server in running:
            _embed(server, texts(1, [10]))  # the emulator loads the model for the first request
            _embed(server, known)
        return [
            _speed_row(name, running, speed_of, num_turns)
            for name, speed_of in measurements.items()
        ]


def _speed_row(
    name: str, running: Sequence[Server], speed_of: Callable[[Server], float], num_turns: int
) -> list[str]:
    """Measures one kind of request. In each turn, every server is measured.

    `running`: the emulator, `llama_cpp.server`, then llama-server with different settings.
    `speed_of`: sends requests to a server for one turn, and returns the texts per second.
    """
    turns = [[speed_of(server) for server in running] for _ in range(num_turns)]
    ours, python, *theirs = (statistics.median(speeds) for speeds in zip(*turns, strict=True))
    ratio = statistics.median(turn[0] / max(turn[2:]) for turn in turns)
    python_ratio = statistics.median(turn[0] / turn[1] for turn in turns)
    texts_per_s = (f"{speed:.0f}" for speed in (ours, max(theirs), python))
    return [name, *texts_per_s, f"{ratio:.2f}", f"{python_ratio:.2f}"]


def stream_gaps(conditions: Conditions) -> list[list[str]]:
    """Returns the rows of the table about a stream alone and beside embeddings."""
    with servers.running(servers.ours(conditions), 1, 2048) as server:
        _embed(server, texts(1, [10]))  # loads the model
        _arrivals(server, conditions.model)
        alone = _arrivals(server, conditions.model)
        with _embedding_again_and_again(server):
            beside = _arrivals(server, conditions.model)
    return [_gap_row("alone", alone), _gap_row("beside embeddings", beside)]


def _gap_row(name: str, arrivals: Sequence[float]) -> list[str]:
    gaps = [1000 * (after - before) for before, after in itertools.pairwise(arrivals)]
    speed = len(gaps) / (arrivals[-1] - arrivals[0])
    numbers = (tables.percentile(gaps, 50), tables.percentile(gaps, 95), max(gaps))
    return [name, f"{speed:.1f}", *(f"{number:.0f}" for number in numbers)]


def _llama_server(conditions: Conditions, num_slots: int) -> ServerSpec:
    """Returns the spec of llama-server for embeddings. Its slots and batches fit all texts."""
    threads = str(conditions.num_threads)
    return ServerSpec(
        f"{peers.SERVER} --embedding",
        (
            *(str(peers.llama_cpp_program(peers.SERVER)), "--embedding", "--pooling", "mean"),
            *("--model", str(embedding_stand_in(conditions.models_dir)), "--offline", "--no-ui"),
            *("--threads", threads, "--parallel", str(num_slots)),
            *("--ctx-size", str(num_slots * _CONTEXT_LENGTH)),
            *("--batch-size", "2048", "--ubatch-size", "2048"),
        ),
        "",
        "/v1/chat/completions",
        "/health",
    )


def _python_server(conditions: Conditions) -> ServerSpec:
    """Returns the spec of `llama_cpp.server` for embeddings of texts up to _CONTEXT_LENGTH."""
    chat = servers.python_server(conditions, embedding_stand_in(conditions.models_dir))
    return replace(chat, command=(*chat.command, "--embedding", "true"))


def _texts_per_s(next_texts: Callable[[], list[str]], server: Server) -> float:
    """Returns the median speed of the requests of one client in one turn.

    `next_texts`: returns the texts of the next request.
    """
    measured: list[float] = []
    end = time.perf_counter() + _MIN_S
    with httpx.Client() as client:  # creating a client takes longer than a short text
        while not measured or time.perf_counter() < end:
            inputs = next_texts()
            start = time.perf_counter()
            _embed(server, inputs, client)
            measured.append(len(inputs) / (time.perf_counter() - start))
    return statistics.median(measured)


def _texts_per_s_of_many(next_texts: Callable[[], list[str]], server: Server) -> float:
    """Returns the speed of all requests of many clients in one turn."""
    start = time.perf_counter()

    def num_embedded(_: int) -> int:
        num_texts = 0
        with httpx.Client() as client:
            while time.perf_counter() < start + _MANY_S:
                inputs = next_texts()
                _embed(server, inputs, client)
                num_texts += len(inputs)
        return num_texts

    with ThreadPoolExecutor(_NUM_CLIENTS) as pool:
        num_texts = sum(pool.map(num_embedded, range(_NUM_CLIENTS)))
    return num_texts / (time.perf_counter() - start)


def _embed(server: Server, inputs: Sequence[str], client: httpx.Client | None = None) -> None:
    path = f"{API}/v1/embeddings" if server.spec.name == servers.OURS else "/v1/embeddings"
    url = f"http://127.0.0.1:{server.port}{path}"
    post = httpx.post if client is None else client.post
    response = post(url, json={"model": _MODEL, "input": inputs}, timeout=_TIMEOUT_S)
    if response.status_code != 200:
        raise SystemExit(f"{server.spec.name} refused texts: {response.text[:300]}")


@contextmanager
def _embedding_again_and_again(server: Server) -> Iterator[None]:
    """Requests embeddings on another thread until the `with` block ends."""
    is_ended = threading.Event()

    def embed() -> None:
        while not is_ended.is_set():
            _embed(server, texts(_NUM_TEXTS, [100]))

    thread = threading.Thread(target=embed)
    thread.start()
    try:
        yield
    finally:
        is_ended.set()
        thread.join()


def _arrivals(server: Server, model: str) -> list[float]:
    """Streams a completion, and returns the time at which each event with text arrived."""
    body = {
        "prompt": "1 2 3 4 " * 4,  # the stand-in model repeats the numbers without an end
        "raw": True,
        "temperature": 0,
        "max_tokens": _STREAM_TOKENS,
        "stream": True,
    }
    arrivals: list[float] = []
    with httpx.stream("POST", server.run_url(model), json=body, timeout=_TIMEOUT_S) as response:
        for line in response.iter_lines():
            if line.startswith("data: {") and json.loads(line[len("data: ") :]).get("response"):
                arrivals.append(time.perf_counter())
    return arrivals
