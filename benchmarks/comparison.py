"""Our server beside its peers: every scenario, every server in turn, round after round."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace

from benchmarks import measurements, prompts, servers, tables
from benchmarks.client import Answer, Question, Recording, ask
from benchmarks.conditions import Conditions
from benchmarks.measurements import Measurement
from benchmarks.scenarios import ClosedLoop, Scenario, scenarios
from benchmarks.servers import ServerSpec

log = logging.getLogger(__name__)

_WARM_UP = Question(prompts.WARM_UP, max_tokens=8)


def report(conditions: Conditions) -> Iterator[str]:
    """A table for each scenario, how often a text was not the same, and all in one table."""
    specs = servers.all_specs(conditions)
    answers: dict[str, list[Answer]] = defaultdict(list)
    summary, profile = [], []
    yield (
        "Everybody starts afresh for each run and answers one request before it. A ratio of "
        "tokens/s is better above 1, all others below; the better llama-server counts, metric by "
        "metric."
    )
    for scenario in scenarios(is_quick=conditions.is_quick):
        able = [s for s in specs if s.is_concurrent or not scenario.needs_concurrency]
        runs = measure(scenario, able, conditions.num_rounds)
        rivals = [s.name for s in able if s.is_concurrent and s.name != servers.OURS]
        yield f"### {scenario.description}"
        yield f"{scenario.num_slots} slots of {scenario.context_length} tokens."
        yield measurements.table(runs, servers.OURS, rivals)
        summary.append(measurements.summary(scenario.name, runs, servers.OURS, rivals))
        if isinstance(scenario, ClosedLoop):
            profile += measurements.profile(scenario.name, runs, conditions.num_threads)
        for name, of_server in runs.items():
            answers[name] += [answer for run in of_server for answer in run.answers]
    yield "### One prompt's different texts, most over all of these runs"
    rows = [[name, str(measurements.max_distinct_texts(of))] for name, of in answers.items()]
    yield tables.markdown(["", "texts per prompt"], rows)
    yield "### Milliseconds of a processor for a token, in the server's threads"
    yield tables.markdown(measurements.PROFILE_HEADINGS, profile)
    yield "### In short: ours beside the better llama-server"
    yield tables.markdown(measurements.SUMMARY_HEADINGS, summary)


def measure(
    scenario: Scenario, specs: Sequence[ServerSpec], num_rounds: int
) -> dict[str, list[Measurement]]:
    """The servers take turns, so that a slow minute of the machine hits all of them."""
    runs: dict[str, list[Measurement]] = {spec.name: [] for spec in specs}
    for number in range(1, num_rounds + 1):
        for spec in specs:
            log.info("round %d, %s: %s", number, spec.name, scenario.description)
            runs[spec.name].append(_run(scenario, spec))
    return runs


def _run(scenario: Scenario, spec: ServerSpec) -> Measurement:
    async def warm_up_and_run() -> Measurement:
        await ask(server, Recording(_WARM_UP))
        before = server.thread_times
        measurement = await scenario.run(server)
        times = [total - before.get(id, 0.0) for id, total in server.thread_times.items()]
        return replace(measurement, thread_times=sorted(times, reverse=True))

    with servers.running(spec, scenario.num_slots, scenario.context_length) as server:
        return asyncio.run(warm_up_and_run())
