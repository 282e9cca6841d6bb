"""The engine: one thread that owns the runner, and what the event loop sees of it.

event loop   submit, cancel ──► inbox ──┐
worker       for each operation of scheduler.step(): carry it out, sample, detokenise
event loop   generations get their chunks ◄── one call_soon_threadsafe per decode call
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from queue import SimpleQueue

from workers_ai_emulator.engine.delivery import Event, chunks_of
from workers_ai_emulator.engine.errors import (
    CapacityExceeded,
    ContextTooLong,
    DeadlineExceeded,
    EngineClosed,
    EngineError,
    Interrupted,
)
from workers_ai_emulator.engine.prefixes import Holder, Snapshot
from workers_ai_emulator.engine.scheduler import (
    Copy,
    Decode,
    Discard,
    Operation,
    Save,
    Scheduler,
    Truncate,
)
from workers_ai_emulator.engine.sequence import Sequence
from workers_ai_emulator.engine.tiling import Tiling
from workers_ai_emulator.engine.types import (
    Chunk,
    FinishReason,
    ModelRunner,
    SamplingParams,
    Span,
    State,
    Usage,
)
from workers_ai_emulator.engine.watchdog import Watchdog

log = logging.getLogger(__name__)

_CLOSE_LIMIT_S = 10
_MAX_WATCH_INTERVAL_S = 1.0


class EngineGeneration:
    """A request's handle on its completion: iterate it once for chunks, cancel it at any time.

    Ends with a chunk that has a finish reason, or raises EngineError or DeadlineExceeded.
    """

    def __init__(self, engine: Engine, sequence: Sequence) -> None:
        self._engine = engine
        self._sequence = sequence
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._timer: asyncio.TimerHandle | None = None
        self.is_finished = False  # the worker has let go of it

    @property
    def usage(self) -> Usage:
        """Token counts so far."""
        return self._sequence.usage

    @property
    def finish_reason(self) -> FinishReason | None:
        return self._sequence.finish_reason

    @property
    def fingerprint(self) -> str:
        """Equal for equal requests."""
        return f"{self._sequence.prompt_tokens} {self._sequence.params}"

    def __aiter__(self) -> AsyncIterator[Chunk]:
        return chunks_of(self._events)

    def cancel(self) -> None:
        """Stop generating; the slot is free within a step. Does nothing once it has ended."""
        if not self.is_finished:
            self._engine.cancel(self._sequence)

    def cancel_after(self, limit_s: float) -> None:
        """Cancel it in `limit_s` seconds, unless it has ended; its reader gets DeadlineExceeded."""
        self._timer = asyncio.get_running_loop().call_later(limit_s, self._expire)

    def deliver(self, event: Chunk | EngineError) -> None:
        self.is_finished = isinstance(event, EngineError) or event.finish_reason is not None
        if self.is_finished and self._timer is not None:
            self._timer.cancel()
        self._events.put_nowait(event)

    def _expire(self) -> None:
        self._events.put_nowait(DeadlineExceeded())
        self.cancel()


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """What an engine is doing and has done, for metrics."""

    num_slots: int
    num_free_slots: int
    num_running: int
    num_waiting: int
    num_prompt_tokens: int
    num_cached_tokens: int
    num_completion_tokens: int
    finished: dict[str, int]  # requests by finish reason


@dataclass(frozen=True, slots=True)
class _Cancel:
    sequence: Sequence


class _Close:
    """The last message to the worker."""


class Engine:
    """Continuous batching on a thread of its own. All methods belong to the event loop.

    At most `queue_size` requests wait for a slot; `snapshot_tokens` bounds the cells kept
    outside the slots. `failure` says why it cannot compute, as long as that is so.
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
        self._runner = runner
        self._scheduler = Scheduler(
            num_slots=runner.num_slots,
            tiling=tiling,
            snapshot_tokens=snapshot_tokens,
        )
        self._snapshots: dict[Snapshot, State] = {}
        self._inbox: SimpleQueue[Sequence | _Cancel | _Close] = SimpleQueue()
        self._live: dict[Sequence, EngineGeneration] = {}  # the event loop's
        self._max_live = runner.num_slots + queue_size
        self._outbox: list[tuple[Sequence, Chunk | EngineError]] = []  # the worker's
        self._counts: Counter[str] = Counter()
        self._finished: Counter[str] = Counter()
        self._loop = asyncio.get_running_loop()
        self._is_closing = False
        self.failure: str | None = None
        self._num_done = 0  # operations of the worker
        self._call_lock = threading.Lock()  # for what the two threads say of the call that runs
        self._in_call: list[Sequence] = []
        self._watch: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    @property
    def is_idle(self) -> bool:
        """Whether no request is waiting or running."""
        return not self._live

    @property
    def status(self) -> EngineStatus:
        scheduler, counts = self._scheduler, self._counts
        return EngineStatus(
            num_slots=self._runner.num_slots,
            num_free_slots=scheduler.num_free_slots,
            num_running=len(scheduler.running) + len(scheduler.prefilling),
            num_waiting=len(scheduler.waiting) + self._inbox.qsize(),
            num_prompt_tokens=counts["prompt"],
            num_cached_tokens=counts["cached"],
            num_completion_tokens=counts["completion"],
            finished=dict(self._finished),
        )

    def submit(self, prompt_tokens: list[int], params: SamplingParams) -> EngineGeneration:
        """Queue a request. Raises ContextTooLong, CapacityExceeded or EngineClosed at once.

        Raises EngineError while there is a failure.
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
        generation = self._live[sequence] = EngineGeneration(self, sequence)
        self._inbox.put(sequence)
        return generation

    def cancel(self, sequence: Sequence) -> None:
        """End it within a step, or at once if the call that is running is for nobody else."""
        sequence.is_cancelled = True
        self._inbox.put(_Cancel(sequence))
        with self._call_lock:
            if self._in_call and all(s.is_cancelled for s in self._in_call):
                self._runner.interrupt(is_wanted=True)

    def cancel_all(self) -> None:
        """Cancel every request that has not ended."""
        for generation in list(self._live.values()):
            generation.cancel()

    def watch(self, limit_s: float) -> None:
        """From now on, fail when the worker gets nothing done for `limit_s` seconds, or dies."""
        self._watch = asyncio.create_task(self._watch_worker(Watchdog(limit_s), limit_s / 8))

    async def close(self) -> None:
        """Cancel everything, stop the thread, free the runner; a thread that hangs is left."""
        self._is_closing = True
        self.cancel_all()
        if self._watch is not None:
            self._watch.cancel()
        self._inbox.put(_Close())
        await asyncio.to_thread(self._thread.join, _CLOSE_LIMIT_S)

    async def _watch_worker(self, watchdog: Watchdog, interval_s: float) -> None:
        interval_s = min(interval_s, _MAX_WATCH_INTERVAL_S)
        while True:
            await asyncio.sleep(interval_s)
            failure = watchdog.observe(
                num_done=self._num_done,
                is_busy=bool(self._live),
                is_alive=self._thread.is_alive(),
                elapsed_s=interval_s,
            )
            if failure and not self.failure:
                log.error("%s", failure)
            elif self.failure and not failure:
                log.warning("the engine goes on")
            self.failure = failure
            if failure:
                self._give_up(EngineError(failure))

    def _give_up(self, error: EngineError) -> None:
        """All who wait get the error; should the worker go on, it finds them cancelled."""
        for sequence in list(self._live):
            self.cancel(sequence)
            self._live.pop(sequence).deliver(error)

    # ── the worker's thread ───────────────────────────────────────────────────────────────────

    def _work(self) -> None:
        while self._receive():
            try:
                self._step()
            except Exception as error:
                log.exception("a step failed; its requests end")
                self._fail(self._scheduler.sequences, error)
            self._flush()
        for sequence in self._scheduler.sequences:
            self._end(sequence, FinishReason.CANCELLED)
        self._flush()
        self._runner.close()

    def _receive(self) -> bool:
        """Take in all messages, waiting for one if there is nothing to do. False: close."""
        while self._scheduler.is_idle or not self._inbox.empty():
            if self._scheduler.is_idle:
                self._scheduler.check_integrity()
            message = self._inbox.get()
            if isinstance(message, _Close):
                return False
            if isinstance(message, Sequence):
                self._scheduler.add(message)
            elif not message.sequence.is_finished:
                self._end(message.sequence, FinishReason.CANCELLED)
                self._flush()
        return True

    def _step(self) -> None:
        for operation in self._scheduler.step():
            try:
                self._carry_out(operation)
            except Interrupted:
                for sequence in self._scheduler.affected(operation):
                    self._end(sequence, FinishReason.CANCELLED, keep_cells=False)
                return
            except EngineError as error:
                log.error("%s failed: %s", type(operation).__name__, error)
                self._fail(self._scheduler.affected(operation), error)
                return
            self._num_done += 1

    def _carry_out(self, operation: Operation) -> None:
        match operation:
            case Decode(spans, outputs):
                self._decode(spans, self._scheduler.affected(operation))
                for row, sequence in enumerate(outputs):
                    try:
                        self._take_token(sequence, row)
                    except Exception as error:
                        log.exception("sampling failed; the request ends")
                        self._fail([sequence], error)
                self._flush()
            case Truncate(slot, num_tokens):
                self._runner.truncate(slot, num_tokens)
            case Copy(source, target, num_tokens):
                self._runner.load(target, self._state(source))
                self._runner.truncate(target, num_tokens)
            case Save(slot, snapshot):
                self._snapshots[snapshot] = self._runner.save(slot)
            case Discard(snapshot):
                del self._snapshots[snapshot]

    def _decode(self, spans: list[Span], sequences: list[Sequence]) -> None:
        """Raises Interrupted if all of the sequences are given up before it ends."""
        with self._call_lock:
            self._in_call = sequences
            self._runner.interrupt(is_wanted=all(s.is_cancelled for s in sequences))
        try:
            self._runner.decode(spans)
        finally:
            with self._call_lock:
                self._in_call = []

    def _state(self, holder: Holder) -> State:
        if isinstance(holder, Snapshot):
            return self._snapshots[holder]
        return self._runner.save(holder)

    def _take_token(self, sequence: Sequence, row: int) -> None:
        """Sample the sequence's next token and put its text into the outbox."""
        if sequence.sampler is None:
            sequence.sampler = self._runner.sampler(sequence.params, sequence.prompt_tokens)
            self._counts["prompt"] += sequence.num_prompt_tokens
            self._counts["cached"] += sequence.num_cached_tokens
        token = sequence.sampler.sample(row)
        sequence.append(token, is_eog=self.vocabulary.is_eog(token))
        self._counts["completion"] += 1
        text = sequence.detokenizer.feed(self.vocabulary.piece(token))
        if sequence.finish_reason is None:
            self._outbox.append((sequence, Chunk(text)))
        else:
            self._end(sequence, sequence.finish_reason, text + sequence.detokenizer.flush())

    def _end(
        self,
        sequence: Sequence,
        reason: FinishReason,
        text: str = "",
        *,
        keep_cells: bool = True,
    ) -> None:
        sequence.finish_reason = reason
        self._release(sequence, reason.value, keep_cells=keep_cells)
        self._outbox.append((sequence, Chunk(text, reason)))

    def _fail(self, sequences: list[Sequence], error: Exception) -> None:
        for sequence in sequences:
            self._release(sequence, "error", keep_cells=False)
            self._outbox.append((sequence, EngineError(str(error))))

    def _release(self, sequence: Sequence, outcome: str, *, keep_cells: bool) -> None:
        self._scheduler.finish(sequence, keep_cells=keep_cells)
        self._finished[outcome] += 1
        if sequence.sampler is not None:
            sequence.sampler.close()

    def _flush(self) -> None:
        if self._outbox:
            events, self._outbox = self._outbox, []
            self._loop.call_soon_threadsafe(self._deliver, events)

    # ── the event loop again ──────────────────────────────────────────────────────────────────

    def _deliver(self, events: list[tuple[Sequence, Chunk | EngineError]]) -> None:
        for sequence, event in events:
            if (generation := self._live.get(sequence)) is None:
                continue  # was given up
            generation.deliver(event)
            if generation.is_finished:
                del self._live[sequence]
