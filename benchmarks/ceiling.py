"""Compares the engine's speed, without an HTTP server, with llama.cpp's `llama-batched-bench`."""

from __future__ import annotations

import asyncio
import json
import logging
import statistics
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from workers_ai_emulator.engine.engine import Engine
from workers_ai_emulator.engine.llama import LlamaModel, LlamaRunner
from workers_ai_emulator.engine.types import SamplingParams, Span
from workers_ai_emulator.runtime.loader import TILING

from benchmarks import peers, prompts, tables
from benchmarks.conditions import Conditions

log = logging.getLogger(__name__)

NUM_SEQUENCES = (1, 4, 16)
NUM_PROMPT_TOKENS = NUM_NEW_TOKENS = 64
CONTEXT_LENGTH = 256  # llama.cpp rounds context lengths up to multiples of 256


@dataclass(frozen=True, slots=True)
class Call:
    """When a decode call started and ended, and how many completion tokens it computed.

    `num_tokens` is 0 if the call evaluated more than one token of any sequence, as in a prefill.
    """

    start_s: float
    end_s: float
    num_tokens: int


@dataclass(frozen=True, slots=True)
class Speed:
    """The mean duration of those engine steps in which every sequence got a token.

    `step_s`: seconds of a whole step. `decode_s`: seconds of the decode call within the step.
    """

    num_sequences: int
    step_s: float
    decode_s: float

    @property
    def tokens_per_s(self) -> float:
        return self.num_sequences / self.step_s

    @property
    def outside_s(self) -> float:
        return self.step_s - self.decode_s


class TimedRunner(LlamaRunner):
    """A `LlamaRunner` that measures every decode call, and appends a `Call` to `calls`."""

    calls: list[Call]

    def decode(self, spans: Sequence[Span]) -> None:
        start_s = time.perf_counter()
        super().decode(spans)
        num_tokens = len(spans) if all(len(span.tokens) == 1 for span in spans) else 0
        self.calls.append(Call(start_s, time.perf_counter(), num_tokens))


def report(conditions: Conditions) -> Iterator[str]:
    """Yields a table with the tokens/s of the engine and of `llama-batched-bench`.

    The table has one row for each number of sequences: 1, 4 and 16.
    """
    bench: list[dict[int, float]] = []
    engine: list[dict[int, Speed]] = []
    for number in range(1, conditions.num_rounds + 1):
        log.info("round %d of the ceiling", number)
        bench.append(_batched_bench(conditions))
        engine.append({n: asyncio.run(_engine_speed(conditions, n)) for n in NUM_SEQUENCES})
    yield (
        "`llama-batched-bench` is llama.cpp's benchmark of decode calls without a server. Its "
        "speed is the ceiling for the engine. "
        f"Every sequence has {NUM_PROMPT_TOKENS} prompt tokens and {NUM_NEW_TOKENS} completion "
        "tokens; only steps in which all sequences run are counted. Both programs use one KV "
        "stream per sequence and flash attention. `llama-batched-bench` does not sample tokens; "
        "the engine samples, detokenises and delivers chunks."
    )
    headings = ["sequences", "batched-bench, tokens/s", "engine, tokens/s", "ratio"]
    headings += ["outside decode, ms a step", "% of a step"]
    rows = [_row(n, [b[n] for b in bench], [e[n] for e in engine]) for n in NUM_SEQUENCES]
    yield tables.markdown(headings, rows)


def _row(num_sequences: int, bench: list[float], engine: list[Speed]) -> list[str]:
    ceiling = statistics.median(bench)
    tokens_per_s = statistics.median(speed.tokens_per_s for speed in engine)
    outside_s = statistics.median(speed.outside_s for speed in engine)
    share = statistics.median(speed.outside_s / speed.step_s for speed in engine)
    return [
        str(num_sequences),
        f"{ceiling:.1f}",
        f"{tokens_per_s:.1f}",
        tables.ratio(tokens_per_s, ceiling),
        f"{1000 * outside_s:.2f}",
        f"{100 * share:.1f}",
    ]


def _batched_bench(conditions: Conditions) -> dict[int, float]:
    """Runs `llama-batched-bench`. Returns the completion tokens/s by the number of sequences."""
    num_cells = max(NUM_SEQUENCES) * CONTEXT_LENGTH
    command = [
        *(str(peers.llama_cpp_program(peers.BATCHED_BENCH)), "--model", str(conditions.weights)),
        *("-npp", str(NUM_PROMPT_TOKENS), "-ntg", str(NUM_NEW_TOKENS)),
        *("-npl", ",".join(map(str, NUM_SEQUENCES)), "--ctx-size", str(num_cells)),
        *("--threads", str(conditions.num_threads), "--flash-attn", "on", "--no-kv-unified"),
        *("--output-format", "jsonl"),
    ]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    results = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    return {result["pl"]: result["speed_tg"] for result in results}


async def _engine_speed(conditions: Conditions, num_sequences: int) -> Speed:
    engine, calls = _open_engine(conditions)
    try:
        await asyncio.gather(*(_generate(engine, text) for text in prompts.PROMPTS[:num_sequences]))
    finally:
        await engine.close()
    return _speed(calls, num_sequences)


def _open_engine(conditions: Conditions) -> tuple[Engine, list[Call]]:
    """Returns an engine, and the list to which the engine adds a `Call` for each decode call."""
    runner = TimedRunner(
        LlamaModel(conditions.weights),
        num_slots=max(NUM_SEQUENCES),
        context_length=CONTEXT_LENGTH,
        batch_length=TILING.batch_length,
        num_threads=conditions.num_threads,
    )
    runner.calls = []
    return Engine(runner, queue_size=0, tiling=TILING), runner.calls


async def _generate(engine: Engine, text: str) -> None:
    """Generates one completion of NUM_NEW_TOKENS tokens."""
    prompt_tokens = engine.vocabulary.tokenize(text * NUM_PROMPT_TOKENS)[:NUM_PROMPT_TOKENS]
    params = SamplingParams(max_tokens=NUM_NEW_TOKENS, temperature=0.0)
    async for _ in engine.submit(prompt_tokens, params):
        pass


def _speed(calls: list[Call], num_sequences: int) -> Speed:
    """Returns the mean times of the engine steps in which all sequences got a token.

    A step lasts from the start of its decode call to the start of the next decode call. Raises
    SystemExit if in no step all sequences got a token.
    """
    steps = [
        (call, following)
        for call, following in pairwise(calls)
        if call.num_tokens == following.num_tokens == num_sequences
    ]
    if not steps:
        raise SystemExit(f"the engine never ran {num_sequences} sequences in one call")
    step_s = statistics.fmean(following.start_s - call.start_s for call, following in steps)
    decode_s = statistics.fmean(call.end_s - call.start_s for call, _ in steps)
    return Speed(num_sequences, step_s, decode_s)
