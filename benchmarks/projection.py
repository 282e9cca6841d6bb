"""Projects the speed for one client with weights of Llama 2 7B's size.

Measures the decode calls of weights with Llama 2 7B's size and random values. The completions of
such weights are random text, in which drafts are never right. So the projection takes completions
of the stand-in model, and computes which decode calls the emulator would make for them, and how
long these calls would take.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import get_args

from workers_ai_emulator.engine.costs import CallCosts
from workers_ai_emulator.engine.drafts import Drafter
from workers_ai_emulator.engine.llama import LlamaModel, LlamaRunner
from workers_ai_emulator.engine.sequence import Sequence as EngineSequence
from workers_ai_emulator.engine.types import SamplingParams, Span, WeightsType
from workers_ai_emulator.runtime.loader import TILING

from benchmarks import prompts, random_weights, tables
from benchmarks.conditions import Conditions

log = logging.getLogger(__name__)

NUM_ROWS = (1, 2, 3, 4, 6, 8, 16)
_MAX_ROWS = max(NUM_ROWS)
_NUM_CELLS = 100  # the context in which decode calls are measured, in tokens
_CONTEXT_LENGTH = 1024
_PROMPTS = {"short prompts": prompts.SHORT_PROMPTS, "text in the prompt": prompts.TEXT_PROMPTS}
_CHAT = (  # the stand-in model's chat template
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
    "<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
)


@dataclass(frozen=True, slots=True)
class CallTimes:
    """How long decode calls for one sequence take.

    `single_s`: the seconds of a call with one row, computed in llama.cpp's usual way, as
    llama-server does. `rows_s`: the seconds of a call of the emulator, by the number of rows.
    """

    single_s: float
    rows_s: dict[int, float]

    @property
    def costs(self) -> CallCosts:
        """The same times, and interpolated times for other numbers of rows."""
        result = CallCosts(_MAX_ROWS)
        for num_rows, duration_s in self.rows_s.items():
            result.calibrate(num_rows, duration_s)
        return result


@dataclass(frozen=True, slots=True)
class Text:
    """The tokens of a prompt and of the stand-in model's completion."""

    prompt: list[int]
    completion: list[int]


@dataclass(frozen=True, slots=True)
class Replay:
    """The totals of the decode calls that generate completions.

    The first token of each completion is left out, because the evaluation of the prompt generates
    it. `num_tokens`: the generated tokens. `duration_s`: the estimated seconds of all calls.
    """

    num_tokens: int
    num_calls: int
    duration_s: float


def report(conditions: Conditions) -> Iterator[str]:
    """Yields a table of the durations of decode calls, and a table with projected speeds."""
    times = {type: _call_times(conditions, type) for type in get_args(WeightsType)}
    yield (
        "Durations in milliseconds of a decode call for one sequence, in a context of "
        f"{_NUM_CELLS} tokens, by the number of its rows (tokens), with weights of Llama 2 7B's "
        "size. llama-server evaluates one row per call."
    )
    yield tables.markdown(["rows", *times], _time_rows(times))
    yield (
        "Projected, not measured: the milliseconds per token of one client with Llama 2 7B. The "
        "projection computes which decode calls the emulator would make for the greedy completions "
        "of the stand-in model, and adds up the durations above. Time outside of decode calls is "
        "not included."
    )
    rows = [
        [f"{type}, {name}", *_projection(times[type], _texts(conditions, type, name))]
        for type in times
        for name in _PROMPTS
    ]
    headings = ["", "tokens per call", "emulator, projected", "llama-server, projected", "ratio"]
    yield tables.markdown(headings, rows)


def replay(texts: Sequence[Text], times: CallTimes) -> Replay:
    """Returns the totals of the decode calls that the emulator would make for the completions.

    The completions are generated one after the other.
    """
    drafter = Drafter(max_rows=_MAX_ROWS)
    drafter.costs = times.costs
    parts = [_replay_one(text, drafter, times.costs) for text in texts]
    return Replay(
        sum(part.num_tokens for part in parts),
        sum(part.num_calls for part in parts),
        sum(part.duration_s for part in parts),
    )


def _replay_one(text: Text, drafter: Drafter, costs: CallCosts) -> Replay:
    sequence = EngineSequence(text.prompt, SamplingParams(max_tokens=len(text.completion)))
    sequence.num_computed_tokens = sequence.num_prompt_tokens
    sequence.append(text.completion[0], is_last=False)
    num_calls, duration_s = 0, 0.0
    while left := text.completion[len(sequence.completion_tokens) :]:
        num_tokens = sequence.num_tokens
        sequence.draft = drafter.draft(sequence)
        num_calls += 1
        duration_s += costs.estimate(1 + len(sequence.draft), 0)
        sequence.num_computed_tokens += 1
        for token in left:
            sequence.append(token, is_last=False)
            if not sequence.has_logits:
                break
        drafter.learn(sequence.tokens_from(num_tokens))
    return Replay(len(text.completion) - 1, num_calls, duration_s)


def _projection(times: CallTimes, texts: Sequence[Text]) -> list[str]:
    replayed = replay(texts, times)
    token_s = replayed.duration_s / replayed.num_tokens
    return [
        f"{replayed.num_tokens / replayed.num_calls:.2f}",
        f"{1000 * token_s:.0f}",
        f"{1000 * times.single_s:.0f}",
        tables.ratio(token_s, times.single_s),
    ]


def _time_rows(times: dict[WeightsType, CallTimes]) -> list[list[str]]:
    single = [f"{1000 * of_type.single_s:.0f}" for of_type in times.values()]
    rows = [
        [str(n), *(f"{1000 * of_type.rows_s[n]:.0f}" for of_type in times.values())]
        for n in NUM_ROWS
    ]
    return [["1, in llama-server", *single], *rows]


def _call_times(conditions: Conditions, weights_type: WeightsType) -> CallTimes:
    path = random_weights.default_path(weights_type)
    log.info("writing %s, unless it exists", path)
    random_weights.ensure(path, weights_type)
    return measure(path, conditions.num_threads, num_calls=2 if conditions.is_quick else 5)


def measure(path: Path, num_threads: int, num_calls: int) -> CallTimes:
    """Measures each kind of decode call `num_calls` times, with the weights in the file `path`."""
    log.info("measuring decode calls of %s", path.name)
    runner = _runner(path, num_threads, batch_invariant=False)
    single_s = _fastest_calls(runner, [1], num_calls)[1]
    runner.close()
    runner = _runner(path, num_threads)
    rows_s = _fastest_calls(runner, NUM_ROWS, num_calls)
    runner.close()
    return CallTimes(single_s, rows_s)


def _runner(path: Path, num_threads: int, *, batch_invariant: bool = True) -> LlamaRunner:
    return LlamaRunner(
        LlamaModel(path),
        num_slots=1,
        context_length=_CONTEXT_LENGTH,
        batch_length=TILING.batch_length,
        num_threads=num_threads,
        batch_invariant=batch_invariant,
    )


def _fastest_calls(runner: LlamaRunner, counts: Sequence[int], num_calls: int) -> dict[int, float]:
    """Returns the seconds of the fastest of `num_calls` decode calls, by the number of rows.

    `counts`: the numbers of rows. The fastest call counts, because other programs can only slow a
    call down.
    """
    tokens = random.Random(1).choices(range(300, 20_000), k=_NUM_CELLS + max(counts))
    _evaluate(runner, tokens[:_NUM_CELLS])
    times: dict[int, float] = {}
    for _, num_rows in product(range(num_calls), counts):
        rows = tokens[_NUM_CELLS : _NUM_CELLS + num_rows]
        start_s = time.perf_counter()
        runner.decode([Span(0, _NUM_CELLS, rows, num_outputs=num_rows)])
        duration_s = time.perf_counter() - start_s
        times[num_rows] = min(duration_s, times.get(num_rows, duration_s))
        runner.truncate(0, _NUM_CELLS)
    return times


def _texts(conditions: Conditions, weights_type: WeightsType, name: str) -> list[Text]:
    """Generates greedy completions of the stand-in model for one kind of prompts."""
    log.info("generating completions of %s, %s", weights_type, name)
    max_tokens = 32 if conditions.is_quick else 96
    weights = conditions.with_weights(weights_type).weights
    runner = _runner(weights, conditions.num_threads)
    try:
        return [_complete(runner, _CHAT.format(text), max_tokens) for text in _PROMPTS[name]]
    finally:
        runner.close()


def _complete(runner: LlamaRunner, text: str, max_tokens: int) -> Text:
    prompt = runner.vocabulary.tokenize(text, parse_special=True)
    _evaluate(runner, prompt)
    completion = [int(runner.logits(0).argmax())]
    while len(completion) < max_tokens and not runner.vocabulary.is_eog(completion[-1]):
        start = len(prompt) + len(completion) - 1
        runner.decode([Span(0, start, completion[-1:], num_outputs=1)])
        completion.append(int(runner.logits(0).argmax()))
    return Text(prompt, completion)


def _evaluate(runner: LlamaRunner, tokens: list[int]) -> None:
    """Evaluates the tokens of a prompt in slot 0, and computes the last token's logits."""
    runner.truncate(0, 0)
    start = 0
    while start < len(tokens):
        end = start + TILING.next_length(start, len(tokens))
        runner.decode([Span(0, start, tokens[start:end], num_outputs=1)])
        start = end
