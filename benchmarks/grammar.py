"""Measures what a grammar costs: the speed with and without one, and the time to compile it."""

from __future__ import annotations

import asyncio
import json
import logging
import statistics
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from workers_ai_emulator.engine.engine import Engine
from workers_ai_emulator.engine.grammar import CompiledGrammar, GrammarState
from workers_ai_emulator.engine.grammar_compiler import GrammarCompiler
from workers_ai_emulator.engine.llama import LlamaModel, LlamaRunner
from workers_ai_emulator.engine.types import SamplingParams
from workers_ai_emulator.runtime.loader import TILING

from benchmarks import tables
from benchmarks.conditions import Conditions

log = logging.getLogger(__name__)

NUM_CLIENTS = (1, 4)
NUM_NEW_TOKENS = 96
MIN_PAIRS = 5
CONTEXT_LENGTH = 256
_TEXT = {"type": "string"}


def _record(properties: dict[str, Any], *, num_required: int) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties)[:num_required],
        "additionalProperties": False,
    }


# The last field is so long that every completion has `NUM_NEW_TOKENS` tokens.
PERSON = _record(
    {
        "name": _TEXT | {"maxLength": 20},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "tags": {"type": "array", "items": {"enum": ["old", "young", "tall"]}, "maxItems": 2},
        "story": _TEXT | {"minLength": 1_000},
    },
    num_required=4,
)
SCHEMAS: dict[str, dict[str, Any]] = {
    "any object": {"type": "object"},
    "4 fields": PERSON,
    "20 tools, 5 fields each": {
        "anyOf": [
            _record(
                {
                    "name": {"const": f"tool_{number}"},
                    "arguments": _record({f"field_{n}": _TEXT for n in range(5)}, num_required=2),
                },
                num_required=2,
            )
            for number in range(20)
        ]
    },
    "enum of 1,000 texts": {"enum": [f"value number {number}" for number in range(1_000)]},
    "pattern of a date": _TEXT | {"pattern": "^[0-9]{4}-(0[1-9]|1[0-2])-[0-3][0-9]$"},
    "200 optional fields": _record({f"field_{n}": _TEXT for n in range(200)}, num_required=0),
}
# The stand-in model continues these texts with at least NUM_NEW_TOKENS tokens.
_BEGINNINGS = ("Once upon a time", "The history of the city", "In the morning,", "My grandmother")


@dataclass(frozen=True, slots=True)
class Speed:
    """The tokens per second of all clients, and the processor time per token of all threads."""

    tokens_per_s: float
    processor_ms: float


class TimedRunner(LlamaRunner):
    """A `LlamaRunner` that appends the duration of each `restrict` to `restrict_s`."""

    restrict_s: list[float]

    def restrict(self, row: int, allowed: bytes) -> None:
        start_s = time.perf_counter()
        super().restrict(row, allowed)
        self.restrict_s.append(time.perf_counter() - start_s)


class TimedGrammar:
    """A grammar whose states append the duration of each `allowed_tokens` to `allowed_s`."""

    def __init__(self, grammar: CompiledGrammar) -> None:
        self.text = grammar.text
        self.allowed_s: list[float] = []
        self._grammar = grammar

    def begin(self) -> TimedState:
        return TimedState(self._grammar.begin(), self.allowed_s)


class TimedState:
    """A grammar's state that appends the duration of each `allowed_tokens` to `allowed_s`."""

    def __init__(self, state: GrammarState, allowed_s: list[float]) -> None:
        self._state = state
        self._allowed_s = allowed_s
        self.advance = state.advance

    @property
    def is_complete(self) -> bool:
        return self._state.is_complete

    def allowed_tokens(self) -> bytes:
        start_s = time.perf_counter()
        allowed = self._state.allowed_tokens()
        self._allowed_s.append(time.perf_counter() - start_s)
        return allowed


def report(conditions: Conditions) -> Iterator[str]:
    """Yields a table of speeds, a table of the time per token, and a table of compile times."""
    num_pairs = 1 if conditions.is_quick else max(conditions.num_rounds, MIN_PAIRS)
    yield (
        f"Each client generates {NUM_NEW_TOKENS} tokens, once without and once with a grammar. "
        "The grammar prescribes a JSON object with four fields, the last of which is a long text. "
        "The engine runs without an HTTP server and without drafts. Medians of "
        f"{num_pairs} pairs of runs."
    )
    yield asyncio.run(_speeds(conditions, num_pairs))
    yield (
        'The time to compile one grammar. "First" includes the compilation in the subprocess. '
        '"Again" is the same grammar in a later request.'
    )
    yield _compile_times(conditions, num_pairs)


async def _speeds(conditions: Conditions, num_pairs: int) -> str:
    runner = TimedRunner(
        LlamaModel(conditions.weights),
        num_slots=max(NUM_CLIENTS),
        context_length=CONTEXT_LENGTH,
        batch_length=TILING.batch_length,
        num_threads=conditions.num_threads,
    )
    runner.restrict_s = []
    engine = Engine(runner, queue_size=0, tiling=TILING)
    grammar = TimedGrammar(engine.compile(text_of(PERSON)))
    headings = ["", "without, tokens/s", "with, tokens/s", "with / without"]
    headings += ["without, processor ms per token", "with, processor ms per token"]
    try:
        rows = [await _row(engine, n, grammar, num_pairs) for n in NUM_CLIENTS]
    finally:
        await engine.close()
    return "\n\n".join(
        (
            tables.markdown(headings, rows),
            f"Time per token, in µs: {_microseconds(grammar.allowed_s)} to compute the allowed "
            f"tokens, {_microseconds(runner.restrict_s)} to change the logits.",
        )
    )


async def _row(
    engine: Engine, num_clients: int, grammar: TimedGrammar, num_pairs: int
) -> list[str]:
    without, with_grammar = [], []
    for number in range(num_pairs):
        log.info("pair %d of %d clients", number + 1, num_clients)
        without.append(await _speed(engine, num_clients, None))
        with_grammar.append(await _speed(engine, num_clients, grammar))
    both = (without, with_grammar)
    ratios = [b.tokens_per_s / a.tokens_per_s for a, b in zip(*both, strict=True)]
    return [
        f"{num_clients} client{'s' * (num_clients > 1)}",
        *(f"{statistics.median(speed.tokens_per_s for speed in of):.1f}" for of in both),
        f"{statistics.median(ratios):.2f}",
        *(f"{statistics.median(speed.processor_ms for speed in of):.2f}" for of in both),
    ]


async def _speed(engine: Engine, num_clients: int, grammar: TimedGrammar | None) -> Speed:
    """Generates one completion for each client, all at the same time."""
    start_s, processor_s = time.perf_counter(), time.process_time()
    counts = await asyncio.gather(
        *(_generate(engine, text, grammar) for text in _BEGINNINGS[:num_clients])
    )
    return Speed(
        tokens_per_s=sum(counts) / (time.perf_counter() - start_s),
        processor_ms=1e3 * (time.process_time() - processor_s) / sum(counts),
    )


async def _generate(engine: Engine, text: str, grammar: TimedGrammar | None) -> int:
    """Generates one completion. Returns the number of its tokens."""
    params = SamplingParams(max_tokens=NUM_NEW_TOKENS, temperature=0.0)
    generation = engine.submit(engine.vocabulary.tokenize(text), params, grammar=grammar)
    async for _ in generation:
        pass
    num_tokens = generation.usage.num_completion_tokens
    if num_tokens != NUM_NEW_TOKENS:  # the speeds could not be compared
        raise SystemExit(f"the completion of {text!r} ended after {num_tokens} tokens")
    return num_tokens


def _compile_times(conditions: Conditions, num_rounds: int) -> str:
    model = LlamaModel(conditions.weights, vocabulary_only=True)
    with closing(model), closing(GrammarCompiler(model.vocabulary)) as compiler:
        compiler.compile('start: ""')  # starts the subprocess and builds the tokenizer
        rows = [_compile_row(compiler, name, num_rounds) for name in SCHEMAS]
    return tables.markdown(["schema", "characters", "first, ms", "again, ms"], rows)


def _compile_row(compiler: GrammarCompiler, name: str, num_rounds: int) -> list[str]:
    first_s, again_s = [], []
    for number in range(num_rounds):
        text = text_of(SCHEMAS[name] | {"title": f"round {number}"})  # a new grammar
        first_s.append(_duration_s(compiler, text))
        again_s.append(_duration_s(compiler, text))
    durations = (f"{1e3 * statistics.median(times):.1f}" for times in (first_s, again_s))
    return [name, f"{len(text_of(SCHEMAS[name])):,}", *durations]


def text_of(schema: dict[str, Any]) -> str:
    """Returns the grammar of JSON that conforms to the schema and contains no line breaks."""
    return f"start: %json {json.dumps(schema | {'x-guidance': {'whitespace_flexible': False}})}"


def _duration_s(compiler: GrammarCompiler, text: str) -> float:
    start_s = time.perf_counter()
    compiler.compile(text)
    return time.perf_counter() - start_s


def _microseconds(durations_s: list[float]) -> str:
    """Returns the median and the 95th percentile in microseconds, as a text."""
    p50, p95 = (1e6 * tables.percentile(durations_s, percent) for percent in (50, 95))
    return f"{p50:.0f} (95th percentile {p95:.0f})"
