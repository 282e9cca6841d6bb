"""The engine: queues requests, generates completions on a worker thread, and returns chunks.

A request goes from the event loop to the worker thread, and its chunks go back:

event loop      submit() and cancel() put messages into the inbox of the worker thread
worker thread   generates the tokens of all requests, and passes the chunks to the event loop
event loop      each EngineGeneration yields the chunks of its request
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable

from workers_ai_emulator.engine.costs import CallCosts
from workers_ai_emulator.engine.delivery import Event, chunks_of
from workers_ai_emulator.engine.drafts import Drafter
from workers_ai_emulator.engine.errors import (
    CapacityExceeded,
    ContextTooLong,
    DeadlineExceeded,
    EngineClosed,
    EngineError,
)
from workers_ai_emulator.engine.grammar import CompiledGrammar
from workers_ai_emulator.engine.grammar_compiler import GrammarCompiler
from workers_ai_emulator.engine.scheduler import Scheduler
from workers_ai_emulator.engine.sequence import Sequence
from workers_ai_emulator.engine.tiling import Tiling
from workers_ai_emulator.engine.types import (
    Chunk,
    FinishReason,
    Grammar,
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
    """The completion of one request: an async iterator of chunks, with a method to cancel it.

    Implements the protocol `Generation`. `sequence`: the prompt and the state of the request.
    `cancel`: a function that cancels the sequence.
    """

    def __init__(self, sequence: Sequence, cancel: Callable[[Sequence], None]) -> None:
        self._sequence = sequence
        self._cancel = cancel
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._timer: asyncio.TimerHandle | None = None
        self.is_finished = False  # True once the last chunk or an error is delivered

    @property
    def usage(self) -> Usage:
        """The numbers of prompt, completion and cached tokens so far."""
        return self._sequence.usage

    @property
    def finish_reason(self) -> FinishReason | None:
        return self._sequence.finish_reason

    @property
    def fingerprint(self) -> str:
        """The prompt, parameters and grammar as a text, from which padding and ids are derived."""
        sequence = self._sequence
        grammar = sequence.grammar.text if sequence.grammar else ""
        return f"{sequence.prompt_tokens} {sequence.params} {grammar}"

    def __aiter__(self) -> AsyncIterator[Chunk]:
        return chunks_of(self._events)

    def cancel(self) -> None:
        """Cancels the generation. Its slot becomes free after at most one scheduler step.

        Does nothing if the generation has ended.
        """
        if not self.is_finished:
            self._cancel(self._sequence)

    def cancel_after(self, limit_s: float) -> None:
        """Cancels the generation if it has not ended within `limit_s` seconds from now.

        The iterator of the generation then raises DeadlineExceeded.
        """
        self._timer = asyncio.get_running_loop().call_later(limit_s, self._expire)

    def deliver(self, event: Event) -> None:
        """Appends a chunk or an error to the queue that the generation's iterator reads."""
        self.is_finished = not isinstance(event, Chunk) or event.finish_reason is not None
        if self.is_finished and self._timer is not None:
            self._timer.cancel()
        self._events.put_nowait(event)

    def _expire(self) -> None:
        self._events.put_nowait(DeadlineExceeded())
        self.cancel()


class Engine:
    """Runs one model with continuous batching, on a worker thread.

    All methods except `compile` and `check` must be called on the event loop's thread.

    `queue_size`: the maximum number of requests that wait for a slot. `tiling`: how prompts are
    split into decode calls. `snapshot_tokens`: the maximum number of tokens in all snapshots; a
    snapshot is a copy of a slot's KV cells outside the KV cache. `drafts`: whether a request that
    runs alone generates several tokens per decode call if its next tokens can be guessed.
    `failure`: an error text if the worker thread has ended or is stuck, otherwise None.
    """

    def __init__(
        self,
        runner: ModelRunner,
        *,
        queue_size: int,
        tiling: Tiling,
        snapshot_tokens: int = 0,
        drafts: bool = False,
        name: str = "engine",
    ) -> None:
        self.vocabulary = runner.vocabulary
        self.context_length = runner.context_length
        self.failure: str | None = None
        self._grammars = GrammarCompiler(runner.vocabulary)
        self._live: dict[Sequence, EngineGeneration] = {}
        self._num_slots = runner.num_slots
        self._max_live = runner.num_slots + queue_size
        self._loop = asyncio.get_running_loop()
        self._is_closing = False
        self._watch: asyncio.Task[None] | None = None
        drafter = Drafter(max_rows=runner.max_outputs) if drafts else None
        self._call_costs = drafter.costs if drafter else None
        scheduler = Scheduler(
            num_slots=runner.num_slots,
            tiling=tiling,
            snapshot_tokens=snapshot_tokens,
            drafter=drafter,
        )
        self._worker = Worker(runner, scheduler, deliver=self._deliver_threadsafe, name=name)

    @property
    def is_idle(self) -> bool:
        """Whether the engine has no waiting and no running requests."""
        return not self._live

    @property
    def is_running(self) -> bool:
        """Whether the worker thread has not ended yet. Until then, the model takes memory."""
        return self._worker.is_alive

    @property
    def status(self) -> EngineStatus:
        return self._worker.status

    @property
    def call_costs(self) -> CallCosts | None:
        """The measured durations of decode calls; None without drafts.

        The worker thread measures and updates them. Other threads may only read them.
        """
        return self._call_costs

    def check_capacity(self, *, may_wait: bool = True) -> None:
        """Raises an error if the engine would reject every request now, whatever its prompt.

        `may_wait`: whether a request may wait for a slot in the queue. Raises CapacityExceeded if
        the queue is full, or if no slot is free and `may_wait` is False. Raises EngineClosed if the
        engine is shutting down, and EngineError if the worker thread has ended or is stuck.
        """
        if self._is_closing:
            raise EngineClosed
        if self.failure:
            raise EngineError(self.failure)
        if len(self._live) >= (self._max_live if may_wait else self._num_slots):
            raise CapacityExceeded

    def compile(self, grammar: str) -> CompiledGrammar:
        """Compiles a grammar for `submit`. May take seconds; may be called on any thread.

        `grammar`: a text in llguidance's dialect of Lark. Raises GrammarUnsupported if it cannot be
        compiled, CapacityExceeded if other grammars take too long to compile, and EngineError if
        the model has been unloaded.
        """
        return self._grammars.compile(grammar)

    def check(self, grammar: str) -> None:
        """Finds out whether a grammar can be compiled. Raises the errors of `compile`.

        Takes no time for a grammar that was checked or compiled recently. May be called on any
        thread.
        """
        self._grammars.check(grammar)

    def submit(
        self,
        prompt_tokens: list[int],
        params: SamplingParams,
        *,
        grammar: Grammar | None = None,
        shows_special_tokens: bool = False,
        may_wait: bool = True,
    ) -> EngineGeneration:
        """Queues a request and returns its generation, which yields the chunks of the completion.

        If `max_tokens` is None, the completion may fill the rest of the context. `grammar`: a
        result of `compile`. The completion then has the form that the grammar prescribes, unless it
        reaches `max_tokens`. When the grammar is complete, the completion ends with the reason
        STOP. If the grammar exceeds a limit of llguidance, the generation fails with GrammarFailed.

        `shows_special_tokens`: whether the text contains the names of special tokens, such as
        `<|channel|>`. It never contains the name of the EOG token at the end. `may_wait`: whether
        the request may wait for a slot in the queue.

        Raises ContextTooLong if the prompt tokens plus `max_tokens` exceed the context length; if
        the number of completion tokens may be reduced, at least one must fit. Also raises the
        errors of `check_capacity`.
        """
        self.check_capacity(may_wait=may_wait)
        rest = max(1, self.context_length - len(prompt_tokens))
        max_tokens = rest if params.max_tokens is None else params.max_tokens
        if params.may_shorten:
            max_tokens = min(max_tokens, rest)
        sequence = Sequence(
            prompt_tokens,
            params,
            max_tokens=max_tokens,
            grammar=grammar,
            strip_leading_space=self.vocabulary.is_sentencepiece,
            shows_special_tokens=shows_special_tokens,
        )
        if sequence.num_reserved_tokens > self.context_length:
            num_tokens = sequence.num_reserved_tokens
            raise ContextTooLong(num_tokens, self.context_length, max_tokens)
        generation = self._live[sequence] = EngineGeneration(sequence, self._worker.cancel)
        self._worker.submit(sequence)
        return generation

    def cancel_all(self) -> None:
        """Cancels all waiting and running requests of the engine."""
        for generation in list(self._live.values()):
            generation.cancel()

    def watch(self, limit_s: float) -> None:
        """Starts a task that detects whether the worker thread has ended or is stuck.

        The thread is stuck if it has requests, but for `limit_s` seconds no decode call or other
        operation has ended. While the thread is stuck, and after it has ended, `failure` contains
        an error text, and all requests fail. Another call of this method replaces the limit.
        """
        if self._watch is not None:
            self._watch.cancel()
        self._watch = asyncio.create_task(self._watch_worker(Watchdog(limit_s), limit_s / 8))

    async def close(self) -> None:
        """Cancels all requests, ends the worker thread and frees the model.

        Waits at most 10 seconds for the thread to end. If the thread is stuck, `is_running` is
        still True, and the model is freed when the thread ends.
        """
        self._is_closing = True
        self.cancel_all()
        if self._watch is not None:
            self._watch.cancel()
        self._worker.close()
        await asyncio.to_thread(self._grammars.close)
        await asyncio.to_thread(self._worker.join, _CLOSE_LIMIT_S)
        if self.is_running:
            log.warning("the engine's thread is stuck: the memory of its model is not freed")

    async def _watch_worker(self, watchdog: Watchdog, interval_s: float) -> None:
        interval_s = min(interval_s, _MAX_WATCH_INTERVAL_S)
        while True:
            await asyncio.sleep(interval_s)
            failure = watchdog.observe(
                progress=self._worker.progress,
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
        """Ends every request with an error, because the worker thread has ended or is stuck.

        Also sends the worker thread a message to cancel each request. Without these messages, a
        stuck thread that continues later would still compute the requests. When it receives the
        messages, the watchdog notices that it is no longer stuck.
        """
        for sequence in list(self._live):
            self._worker.cancel(sequence)
            self._live.pop(sequence).deliver(error)

    def _deliver_threadsafe(self, events: Delivery) -> None:
        """Passes chunks and errors to the event loop. The worker thread calls this method."""
        self._loop.call_soon_threadsafe(self._deliver, events)

    def _deliver(self, events: Delivery) -> None:
        for sequence, event in events:
            generation = self._live.get(sequence)
            if generation is None:
                continue  # `_fail_all` has already ended this request
            generation.deliver(event)
            if generation.is_finished:
                del self._live[sequence]
