"""The engine as the event loop uses it: accepts requests, cancels them, and returns their chunks.

event loop   submit, cancel ──► worker's inbox ──┐
worker       evaluates the sequences in steps: worker.py
event loop   generations get their chunks ◄── one call_soon_threadsafe per decode call
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable

from workers_ai_emulator.engine.delivery import Event, chunks_of
from workers_ai_emulator.engine.errors import (
    CapacityExceeded,
    ContextTooLong,
    DeadlineExceeded,
    EngineClosed,
    EngineError,
)
from workers_ai_emulator.engine.scheduler import Scheduler
from workers_ai_emulator.engine.sequence import Sequence
from workers_ai_emulator.engine.tiling import Tiling
from workers_ai_emulator.engine.types import (
    Chunk,
    FinishReason,
    ModelRunner,
    SamplingParams,
    Usage,
)
from workers_ai_emulator.engine.watchdog import Watchdog
from workers_ai_emulator.engine.worker import Delivery, EngineStatus, Worker

log = logging.getLogger(__name__)

_CLOSE_LIMIT_S = 10
_MAX_WATCH_INTERVAL_S = 1.0


class EngineGeneration:
    """Implements `Generation` for one sequence. `cancel` is called with the sequence to cancel."""

    def __init__(self, sequence: Sequence, cancel: Callable[[Sequence], None]) -> None:
        self._sequence = sequence
        self._cancel = cancel
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._timer: asyncio.TimerHandle | None = None
        self.is_finished = False  # whether the last event has been delivered

    @property
    def usage(self) -> Usage:
        """Token counts so far."""
        return self._sequence.usage

    @property
    def finish_reason(self) -> FinishReason | None:
        return self._sequence.finish_reason

    @property
    def fingerprint(self) -> str:
        """A text that is equal for equal requests."""
        return f"{self._sequence.prompt_tokens} {self._sequence.params}"

    def __aiter__(self) -> AsyncIterator[Chunk]:
        return chunks_of(self._events)

    def cancel(self) -> None:
        """Cancels the generation; its slot is free after at most one step.

        Does nothing if it has ended.
        """
        if not self.is_finished:
            self._cancel(self._sequence)

    def cancel_after(self, limit_s: float) -> None:
        """Cancels the generation after `limit_s` seconds; its iterator raises DeadlineExceeded.

        Does nothing if the generation ends before that.
        """
        self._timer = asyncio.get_running_loop().call_later(limit_s, self._expire)

    def deliver(self, event: Event) -> None:
        """Passes an event to the iterator."""
        self.is_finished = isinstance(event, EngineError) or event.finish_reason is not None
        if self.is_finished and self._timer is not None:
            self._timer.cancel()
        self._events.put_nowait(event)

    def _expire(self) -> None:
        self._events.put_nowait(DeadlineExceeded())
        self.cancel()


class Engine:
    """Continuous batching over one model, on a thread of its own.

    All methods belong to the event loop. At most `queue_size` requests wait for a slot.
    `snapshot_tokens` bounds the KV cells that are stored outside the slots. `failure` describes
    why the engine cannot compute at present; it is None if it can.
    """

    def __init__(
        self,
        runner: ModelRunner,
        *,
        queue_size: int,
        tiling: Tiling,
        snapshot_tokens: int = 0,
        name: str = "engine",
    ) -> None:
        self.vocabulary = runner.vocabulary
        self.context_length = runner.context_length
        self.failure: str | None = None
        self._live: dict[Sequence, EngineGeneration] = {}
        self._max_live = runner.num_slots + queue_size
        self._loop = asyncio.get_running_loop()
        self._is_closing = False
        self._watch: asyncio.Task[None] | None = None
        scheduler = Scheduler(
            num_slots=runner.num_slots, tiling=tiling, snapshot_tokens=snapshot_tokens
        )
        self._worker = Worker(runner, scheduler, deliver=self._deliver_threadsafe, name=name)

    @property
    def is_idle(self) -> bool:
        """Whether no request is waiting or running."""
        return not self._live

    @property
    def status(self) -> EngineStatus:
        return self._worker.status

    def submit(self, prompt_tokens: list[int], params: SamplingParams) -> EngineGeneration:
        """Queues a request and returns its generation.

        Raises ContextTooLong, CapacityExceeded, EngineClosed, or EngineError while the engine has a
        failure.
        """
        if self._is_closing:
            raise EngineClosed
        if self.failure:
            raise EngineError(self.failure)
        sequence = Sequence(
            prompt_tokens, params, strip_leading_space=self.vocabulary.is_sentencepiece
        )
        if sequence.num_reserved_tokens > self.context_length:
            raise ContextTooLong(sequence.num_reserved_tokens, self.context_length)
        if len(self._live) >= self._max_live:
            raise CapacityExceeded
        generation = self._live[sequence] = EngineGeneration(sequence, self._worker.cancel)
        self._worker.submit(sequence)
        return generation

    def cancel_all(self) -> None:
        """Cancels every request that has not ended."""
        for generation in list(self._live.values()):
            generation.cancel()

    def watch(self, limit_s: float) -> None:
        """Starts to watch the worker: sets `failure` and fails all requests while it is stuck.

        The worker is stuck if it has died or has completed no operation for `limit_s` seconds.
        """
        self._watch = asyncio.create_task(self._watch_worker(Watchdog(limit_s), limit_s / 8))

    async def close(self) -> None:
        """Cancels all requests, ends the thread and frees the model.

        Returns after 10 seconds even if the thread does not end.
        """
        self._is_closing = True
        self.cancel_all()
        if self._watch is not None:
            self._watch.cancel()
        self._worker.close()
        await asyncio.to_thread(self._worker.join, _CLOSE_LIMIT_S)

    async def _watch_worker(self, watchdog: Watchdog, interval_s: float) -> None:
        interval_s = min(interval_s, _MAX_WATCH_INTERVAL_S)
        while True:
            await asyncio.sleep(interval_s)
            failure = watchdog.observe(
                num_completed=self._worker.num_completed,
                is_busy=bool(self._live),
                is_alive=self._worker.is_alive,
                elapsed_s=interval_s,
            )
            if failure and not self.failure:
                log.error("%s", failure)
            elif self.failure and not failure:
                log.warning("the engine makes progress again")
            self.failure = failure
            if failure:
                self._fail_all(EngineError(failure))

    def _fail_all(self, error: EngineError) -> None:
        """Ends every request with the error.

        Cancels the sequences, so that a worker that recovers does not continue them.
        """
        for sequence in list(self._live):
            self._worker.cancel(sequence)
            self._live.pop(sequence).deliver(error)

    def _deliver_threadsafe(self, events: Delivery) -> None:
        """Passes events from the worker's thread to the event loop."""
        self._loop.call_soon_threadsafe(self._deliver, events)

    def _deliver(self, events: Delivery) -> None:
        for sequence, event in events:
            generation = self._live.get(sequence)
            if generation is None:
                continue  # the request has already failed
            generation.deliver(event)
            if generation.is_finished:
                del self._live[sequence]
