"""Measures the server's load once per second, and stores the samples of the last five minutes."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass

from workers_ai_emulator.middleware.journal.journal import Journal
from workers_ai_emulator.runtime.model_manager import ModelManager

INTERVAL_S = 1.0
_NUM_SAMPLES = 300


@dataclass(frozen=True, slots=True)
class Sample:
    """The server's load at one moment.

    `time`: seconds since 1970. `running`: the number of inference calls that are generating a
    completion. `waiting`: the number of inference calls that are not yet generating a completion,
    for example because no slot is free. `slots`, `free_slots`: the slots of all loaded models
    together.
    """

    time: float
    tokens_per_second: float
    running: int
    waiting: int
    slots: int
    free_slots: int


class History:
    """Stores the samples of the server's load in the last five minutes."""

    def __init__(self, models: ModelManager, journal: Journal) -> None:
        self.samples: deque[Sample] = deque(maxlen=_NUM_SAMPLES)
        self._models = models
        self._journal = journal
        self._num_tokens = 0
        self._time = time.monotonic() - INTERVAL_S

    async def record(self) -> None:
        """Adds a sample of the server's load every second, until the task is cancelled."""
        while True:
            self.samples.append(self._sample())
            await asyncio.sleep(INTERVAL_S)

    def _sample(self) -> Sample:
        statuses = [model.engine.status for model in self._models.loaded]
        calls = self._journal.running
        num_waiting = sum(call.started is None for call in calls)
        num_waiting += sum(status.num_waiting for status in statuses)
        num_waiting = min(num_waiting, len(calls))
        return Sample(
            time=time.time(),
            tokens_per_second=round(self._tokens_per_second(), 1),
            running=len(calls) - num_waiting,
            waiting=num_waiting,
            slots=sum(status.num_slots for status in statuses),
            free_slots=sum(status.num_free_slots for status in statuses),
        )

    def _tokens_per_second(self) -> float:
        """Returns the completion tokens per second of all calls, since the previous sample."""
        now, num_tokens = time.monotonic(), self._journal.num_completion_tokens
        elapsed_s, num_new = now - self._time, num_tokens - self._num_tokens
        self._time, self._num_tokens = now, num_tokens
        return max(num_new, 0) / elapsed_s
