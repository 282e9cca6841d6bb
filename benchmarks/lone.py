"""Compares the emulator with llama-server while one client sends one request at a time.

The emulator also runs with `--no-drafts` and with `--no-deterministic`, to show what drafts save
and what determinism costs.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence

from benchmarks import comparison, servers, tables
from benchmarks.client import ChatRequest
from benchmarks.conditions import Conditions
from benchmarks.measurements import GAP, SPEED, TOKEN_TIME, TTFT, Measurement, Metric
from benchmarks.scenarios import lone_scenarios
from benchmarks.servers import ServerSpec

Runs = Mapping[str, Sequence[Measurement]]

NO_DRAFTS, NO_DETERMINISTIC = "--no-drafts", "--no-deterministic"
MIN_PAIRS = 5
_METRICS = (TOKEN_TIME, SPEED, TTFT, GAP)
_HEADINGS = ["", *(metric.heading for metric in _METRICS)]
_HEADINGS += ["tokens per call", "errors", "other texts"]
_SUMMARY = ["emulator / llama-server", "ms per token", "tokens/s", "TTFT", "tokens per call"]
_SUMMARY += [f"ms per token, `{NO_DRAFTS}`", f"ms per token, `{NO_DETERMINISTIC}`"]


def report(conditions: Conditions) -> Iterator[str]:
    """Yields one table for each scenario with one client, and a table with all ratios."""
    num_pairs = 1 if conditions.is_quick else max(conditions.num_rounds, MIN_PAIRS)
    yield (
        f"One client sends requests one after the other. In each of {num_pairs} turns, every "
        "server is started anew and measured. A row `emulator / llama-server` has the median of "
        "the ratios of all turns. ms per token: the time from the first to the last event of a "
        "response, divided by the number of its tokens minus 1. Tokens per call: the mean number "
        "of tokens that a decode call generates. Other texts: the number of completions that "
        "differ from the completion that the emulator sent for the same request in its first "
        "run."
    )
    rows = []
    for scenario in lone_scenarios(is_quick=conditions.is_quick):
        specs = _specs(conditions.with_weights(scenario.weights_type))
        runs = comparison.measure(scenario, specs, num_pairs)
        yield f"### {scenario.description}"
        yield table(runs)
        rows.append([scenario.name, *summary(runs)])
    yield "### Summary"
    yield tables.markdown(_SUMMARY, rows)


def table(runs: Runs) -> str:
    """Returns a table with the medians of each server, and the ratios of the emulator."""
    ours = runs[servers.OURS]
    texts = {completion.request: completion.text for completion in ours[0].completions}
    rows = [[name, *_cells(name, of_server, texts)] for name, of_server in runs.items()]
    ratios = [
        [f"{name} / llama-server", *(ratio(metric, runs, name) for metric in _METRICS), "", "", ""]
        for name in runs
        if name != _rival(runs)
    ]
    return tables.markdown(_HEADINGS, [*rows, *ratios])


def summary(runs: Runs) -> list[str]:
    """Returns the cells of the table with all ratios, for one scenario."""
    return [
        *(ratio(metric, runs, servers.OURS) for metric in (TOKEN_TIME, SPEED, TTFT)),
        _tokens_per_call(runs[servers.OURS]),
        *(
            ratio(TOKEN_TIME, runs, f"{servers.OURS} {flag}")
            for flag in (NO_DRAFTS, NO_DETERMINISTIC)
        ),
    ]


def ratio(metric: Metric, runs: Runs, name: str) -> str:
    """Returns the median ratio of the server `name` and llama-server, measured in the same turn."""
    pairs = zip(runs[name], runs[_rival(runs)], strict=True)
    return f"{statistics.median(metric.value(a) / metric.value(b) for a, b in pairs):.2f}"


def _specs(conditions: Conditions) -> list[ServerSpec]:
    return [
        servers.ours(conditions),
        servers.llama_server(conditions, "--kv-unified"),  # llama-server's default
        servers.ours(conditions, NO_DRAFTS),
        servers.ours(conditions, NO_DETERMINISTIC),
    ]


def _rival(runs: Runs) -> str:
    (name,) = (name for name in runs if not name.startswith(servers.OURS))
    return name


def _cells(name: str, runs: Sequence[Measurement], texts: Mapping[ChatRequest, str]) -> list[str]:
    completions = [completion for run in runs for completion in run.completions]
    num_others = sum(completion.text != texts[completion.request] for completion in completions)
    return [
        *(metric.cell(runs) for metric in _METRICS),
        _tokens_per_call(runs) if name.startswith(servers.OURS) else "not measured",
        str(sum(run.num_errors for run in runs)),
        f"{num_others} of {len(completions)}",
    ]


def _tokens_per_call(runs: Sequence[Measurement]) -> str:
    return f"{statistics.median(run.tokens_per_call for run in runs):.2f}"
