"""Measures how fast a loaded model generates, for the command `check`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from statistics import median

from workers_ai_emulator.engine.engine import Engine, EngineGeneration
from workers_ai_emulator.engine.errors import DeadlineExceeded
from workers_ai_emulator.engine.types import FinishReason, SamplingParams, Vocabulary

# The numbers of clients, and for each number its share of the time limit.
_SHARES = {1: 1 / 3, 4: 2 / 3}
_NUM_RUNS = 3
_MAX_TOKENS = 64
_POLL_INTERVAL_S = 0.02
_DELIVERY_S = 0.0005  # clients read the tokens of one decode call within this time
# Each prompt is used only once. The engine would guess the completion of a repeated prompt.
_SUBJECTS = (
    "Rivers", "Bread", "Lighthouses", "Winter", "Trains", "Bees", "Clocks", "Mountains", "Tea",
    "Libraries", "Whales", "Gardens", "Bridges", "Maps", "Kites",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Run:
    """The times at which simultaneous clients got their tokens.

    `times`: for each client, the seconds from the requests to each of its tokens. `is_cut`: whether
    the time limit ended the run before all completions were complete.
    """

    times: Sequence[Sequence[float]]
    is_cut: bool

    @property
    def first_token_s(self) -> float | None:
        """The median of the clients' seconds to the first token; None if a client has no token."""
        return median(times[0] for times in self.times) if all(self.times) else None

    @property
    def tokens_per_s(self) -> float | None:
        """The tokens of all clients per second, once each client has a token.

        None if a client has no token, or if no decode call has generated more tokens since then.
        """
        if not all(self.times):
            return None
        start_s = max(times[0] for times in self.times)
        later = [s for times in self.times for s in times if s > start_s + _DELIVERY_S]
        return len(later) / (max(later) - start_s) if later else None

    @property
    def num_tokens(self) -> int:
        return sum(map(len, self.times))


@dataclass(frozen=True, slots=True)
class Speed:
    """The runs with the same number of simultaneous clients."""

    num_clients: int
    runs: Sequence[Run]

    @property
    def tokens_per_s(self) -> float | None:
        """The median of the runs; None if the time limit left too few tokens."""
        return _median(run.tokens_per_s for run in self.runs)

    @property
    def first_token_s(self) -> float | None:
        """The median of the runs; None if the time limit left too few tokens."""
        return _median(run.first_token_s for run in self.runs)

    @property
    def num_tokens(self) -> int:
        return sum(run.num_tokens for run in self.runs)

    @property
    def is_cut(self) -> bool:
        return any(run.is_cut for run in self.runs)


def prompt_tokens(vocabulary: Vocabulary, text: str) -> list[int]:
    """Returns the tokens of `text`, with a BOS token if the model needs one."""
    bos = [vocabulary.bos] if vocabulary.adds_bos and vocabulary.bos is not None else []
    return bos + vocabulary.tokenize(text)


async def call_durations(engine: Engine, *, limit_s: float) -> tuple[dict[int, float], bool]:
    """Returns the seconds that a decode call takes, by the number of its rows.

    Also returns whether all calls were measured. The engine measures its calls while it has no
    requests, and this function waits for that, for at most `limit_s` seconds. Returns no durations
    if the engine measures no calls.
    """
    costs = engine.call_costs
    if costs is None:
        return {}, True
    deadline = time.monotonic() + limit_s
    while costs.pending and time.monotonic() < deadline:
        await asyncio.sleep(_POLL_INTERVAL_S)
    is_complete = not costs.pending
    # The last call may still run. The engine generates this token after it.
    async for _ in engine.submit(_prompt(engine, "Hello"), SamplingParams(max_tokens=1)):
        pass
    return costs.durations, is_complete


async def measure_speeds(engine: Engine, *, limit_s: float) -> list[Speed]:
    """Measures the tokens per second of one client and of four clients, with greedy completions.

    Takes at most about `limit_s` seconds.
    """
    subjects = iter(_SUBJECTS)
    return [
        Speed(num_clients, await _runs(engine, num_clients, subjects, limit_s * share))
        for num_clients, share in _SHARES.items()
    ]


async def _runs(
    engine: Engine, num_clients: int, subjects: Iterator[str], limit_s: float
) -> list[Run]:
    """Measures up to three runs. If the time limit ends one after the first, leaves it out."""
    deadline = time.monotonic() + limit_s
    runs: list[Run] = []
    while len(runs) < _NUM_RUNS and (left_s := deadline - time.monotonic()) > 0:
        run = await _run(engine, list(islice(subjects, num_clients)), left_s)
        if run.is_cut and runs:
            break
        runs.append(run)
    return runs


async def _run(engine: Engine, subjects: Sequence[str], limit_s: float) -> Run:
    """Generates one completion about each subject, all at the same time."""
    params = SamplingParams(max_tokens=_MAX_TOKENS, temperature=0.0)
    generations = [engine.submit(_prompt(engine, subject), params) for subject in subjects]
    times = await asyncio.gather(*(_token_times(g, limit_s) for g in generations))
    is_cut = any(g.finish_reason in (None, FinishReason.CANCELLED) for g in generations)
    return Run(times, is_cut)


async def _token_times(generation: EngineGeneration, limit_s: float) -> list[float]:
    """Returns the seconds until each token, and cancels the generation after `limit_s` seconds."""
    times = []
    start_s = time.perf_counter()
    generation.cancel_after(limit_s)
    with suppress(DeadlineExceeded):
        async for _ in generation:
            times.append(time.perf_counter() - start_s)
    return times


def _median(values: Iterable[float | None]) -> float | None:
    """Returns the median of those values that are not None; None if there are none."""
    known = [value for value in values if value is not None]
    return median(known) if known else None


def _prompt(engine: Engine, subject: str) -> list[int]:
    return prompt_tokens(engine.vocabulary, f"{subject}: a long article in plain words.\n\n")
