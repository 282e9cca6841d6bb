"""Computes the metrics of measurements, and formats tables that compare servers."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks import tables
from benchmarks.client import ChatRequest, Completion


@dataclass(frozen=True, slots=True)
class Measurement:
    """The results of one run of a scenario against one server.

    `token_s`: the mean seconds per token after the first token of each response; several tokens can
    arrive at the same moment. `ttfts`: the seconds to the first token of each request. `gaps`: the
    seconds between consecutive events with text. `peak_memory`: in bytes. `thread_times`: the CPU
    seconds of each thread, in descending order. `num_accepted_tokens`: how many tokens the emulator
    guessed right.
    """

    tokens_per_s: float
    token_s: float
    ttfts: list[float]
    gaps: list[float]
    peak_memory: int
    completions: list[Completion]
    thread_times: list[float] = field(default_factory=list)
    num_accepted_tokens: int = 0

    @property
    def num_tokens(self) -> int:
        return sum(completion.num_tokens for completion in self.completions)

    @property
    def tokens_per_call(self) -> float:
        """The mean number of tokens that a decode call generates, if only one client runs."""
        return self.num_tokens / max(self.num_tokens - self.num_accepted_tokens, 1)

    def thread_ms_per_token(self, threads: slice) -> float:
        """Returns the CPU time of some threads per completion token, in milliseconds.

        `threads`: a slice of `thread_times`, which selects the threads.
        """
        return 1000 * sum(self.thread_times[threads]) / max(self.num_tokens, 1)

    @property
    def num_errors(self) -> int:
        return sum(not completion.is_finished for completion in self.completions)


@dataclass(frozen=True, slots=True)
class Metric:
    """A column of a table of measurements.

    `value` computes the column's number from a measurement. `digits`: the decimal places. `best` is
    `max` if higher numbers are better, otherwise `min`.
    """

    heading: str
    value: Callable[[Measurement], float]
    digits: int
    best: Callable[[Iterable[float]], float]

    def median(self, runs: Iterable[Measurement]) -> float:
        return statistics.median(self.value(run) for run in runs)

    def cell(self, runs: Iterable[Measurement]) -> str:
        return f"{self.median(runs):.{self.digits}f}"


METRICS = (
    Metric("tokens/s", lambda run: run.tokens_per_s, 1, max),
    Metric("ms per token", lambda run: 1000 * run.token_s, 1, min),
    Metric("TTFT p50, ms", lambda run: 1000 * tables.percentile(run.ttfts, 50), 0, min),
    Metric("TTFT p95, ms", lambda run: 1000 * tables.percentile(run.ttfts, 95), 0, min),
    Metric("gap p95, ms", lambda run: 1000 * tables.percentile(run.gaps, 95), 1, min),
    Metric("peak memory, MiB", lambda run: run.peak_memory / 2**20, 0, min),
)
SPEED, TOKEN_TIME, TTFT, _, GAP, _ = METRICS

SUMMARY_HEADINGS = ["", "tokens/s", "llama-server's", "ratio", "ms per token, ratio"]
SUMMARY_HEADINGS += ["TTFT p50, ratio", "gap p95, ratio"]

PROFILE_HEADINGS = ["", "computing threads", "other threads"]


def max_distinct_texts(completions: Iterable[Completion]) -> int:
    """Returns the highest number of different completions that the same request got.

    The number is 1 if equal requests got equal completions.
    """
    texts: dict[ChatRequest, set[str]] = {}
    for completion in completions:
        if completion.is_finished:
            texts.setdefault(completion.request, set()).add(completion.text)
    return max(map(len, texts.values()), default=0)


def table(runs: Mapping[str, Sequence[Measurement]], ours: str, rivals: Sequence[str]) -> str:
    """Returns a table with the median of each metric for each server.

    The last row has the medians of the server `ours`, divided by the best median of the `rivals`.
    """
    headings = ["", *(metric.heading for metric in METRICS), "errors", "texts per prompt"]
    rows = [[name, *_cells(of_server)] for name, of_server in runs.items()]
    ratios = [_ratio(metric, runs, ours, rivals) for metric in METRICS]
    return tables.markdown(headings, [*rows, ["ours / best llama-server", *ratios, "", ""]])


def summary(
    name: str, runs: Mapping[str, Sequence[Measurement]], ours: str, rivals: Sequence[str]
) -> list[str]:
    """Returns one row of the table that summarises all scenarios.

    The row has the results of the scenario `name`, in the columns SUMMARY_HEADINGS.
    """
    return [
        name,
        SPEED.cell(runs[ours]),
        f"{_best(SPEED, runs, rivals):.{SPEED.digits}f}",
        *(_ratio(metric, runs, ours, rivals) for metric in (SPEED, TOKEN_TIME, TTFT, GAP)),
    ]


def profile(
    name: str, runs: Mapping[str, Sequence[Measurement]], num_threads: int
) -> list[list[str]]:
    """Returns a row for each server, with the CPU time of its threads per completion token.

    The columns are PROFILE_HEADINGS. The `num_threads` threads with the most CPU time count as the
    threads that evaluate the model.
    """
    computing, others = slice(num_threads), slice(num_threads, None)
    return [
        [
            f"{name}: {server}",
            *(
                f"{statistics.median(run.thread_ms_per_token(threads) for run in of_server):.2f}"
                for threads in (computing, others)
            ),
        ]
        for server, of_server in runs.items()
    ]


def _ratio(
    metric: Metric, runs: Mapping[str, Sequence[Measurement]], ours: str, rivals: Sequence[str]
) -> str:
    return tables.ratio(metric.median(runs[ours]), _best(metric, runs, rivals))


def _best(
    metric: Metric, runs: Mapping[str, Sequence[Measurement]], rivals: Sequence[str]
) -> float:
    return metric.best(metric.median(runs[name]) for name in rivals)


def _cells(runs: Sequence[Measurement]) -> list[str]:
    completions = [completion for run in runs for completion in run.completions]
    num_errors = sum(run.num_errors for run in runs)
    values = [metric.cell(runs) for metric in METRICS]
    return [*values, str(num_errors), str(max_distinct_texts(completions))]
