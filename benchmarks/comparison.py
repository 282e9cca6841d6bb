"""Compares the speed of the emulator with that of other servers, in all scenarios."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace

from benchmarks import measurements, prompts, servers, tables
from benchmarks.client import ChatRequest, Completion, TimedResponse, send
from benchmarks.conditions import Conditions
from benchmarks.measurements import Measurement
from benchmarks.scenarios import ClosedLoop, Scenario, scenarios
from benchmarks.servers import ServerSpec

log = logging.getLogger(__name__)

_PAUSE_S = 0.5  # the emulator measures its decode calls when it is idle for the first time


def report(conditions: Conditions) -> Iterator[str]:
    """Measures all servers. Yields one table for each scenario, and tables of all scenarios."""
    specs = servers.all_specs(conditions)
    completions: dict[str, list[Completion]] = defaultdict(list)
    summary, profile = [], []
    yield (
        "Every server is started anew for each run, and completes one request before the "
        "measurement. The rows `ours / best llama-server` divide the emulator's figure by the "
        "better figure of llama-server's two modes. A ratio above 1 means that the emulator is "
        "better in the column tokens/s; in all other columns, a ratio below 1 means that the "
        "emulator is better."
    )
    for scenario in scenarios(is_quick=conditions.is_quick):
        able = [s for s in specs if s.is_concurrent or not scenario.needs_concurrency]
        runs = measure(scenario, able, conditions.num_rounds)
        rivals = [s.name for s in able if s.is_concurrent and s.name != servers.OURS]
        yield f"### {scenario.description}"
        yield f"Each server has {scenario.num_slots} slots of {scenario.context_length} tokens."
        yield measurements.table(runs, servers.OURS, rivals)
        summary.append(measurements.summary(scenario.name, runs, servers.OURS, rivals))
        if isinstance(scenario, ClosedLoop):
            profile += measurements.profile(scenario.name, runs, conditions.num_threads)
        for name, of_server in runs.items():
            completions[name] += [c for run in of_server for c in run.completions]
    yield "### Number of different completions of one prompt: the maximum over all runs and prompts"
    rows = [[name, str(measurements.max_distinct_texts(of))] for name, of in completions.items()]
    yield tables.markdown(["", "texts per prompt"], rows)
    yield "### Processor time per token in the server's threads, in milliseconds"
    yield tables.markdown(measurements.PROFILE_HEADINGS, profile)
    yield "### Summary: the emulator and the better llama-server"
    yield tables.markdown(measurements.SUMMARY_HEADINGS, summary)


def measure(
    scenario: Scenario, specs: Sequence[ServerSpec], num_rounds: int
) -> dict[str, list[Measurement]]:
    """Measures every server `num_rounds` times. Returns the measurements by server name.

    Measures all servers once in each round, so other load on the machine affects all servers alike.
    Every second round has the opposite order.
    """
    runs: dict[str, list[Measurement]] = {spec.name: [] for spec in specs}
    for number in range(1, num_rounds + 1):
        for spec in specs if number % 2 else reversed(specs):
            log.info("round %d, %s: %s", number, spec.name, scenario.description)
            runs[spec.name].append(_run(scenario, spec))
    return runs


def _run(scenario: Scenario, spec: ServerSpec) -> Measurement:
    async def warm_up_and_run() -> Measurement:
        warm_up = ChatRequest(prompts.WARM_UP, max_tokens=8, model=scenario.model)
        await send(server, TimedResponse(warm_up))
        await asyncio.sleep(_PAUSE_S)
        before, num_accepted = server.thread_times, server.num_accepted_tokens
        measurement = await scenario.run(server)
        times = [total - before.get(id, 0.0) for id, total in server.thread_times.items()]
        return replace(
            measurement,
            thread_times=sorted(times, reverse=True),
            num_accepted_tokens=server.num_accepted_tokens - num_accepted,
        )

    with servers.running(spec, scenario.num_slots, scenario.context_length) as server:
        return asyncio.run(warm_up_and_run())
