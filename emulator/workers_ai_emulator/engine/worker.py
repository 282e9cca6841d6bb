"""The engine's worker thread: generates the tokens of all requests and delivers their text.

The event loop puts messages into the worker's inbox. After each decode call, the worker passes a
list of events (chunks of text and errors) to the callback `deliver`:

    inbox ──► scheduler.step() ──► executor.execute(operation) ──► sample, detokenise ──► deliver
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from queue import SimpleQueue

from workers_ai_emulator.engine.delivery import Event
from workers_ai_emulator.engine.errors import EngineError, GrammarFailed, Interrupted
from workers_ai_emulator.engine.executor import Executor
from workers_ai_emulator.engine.scheduler import Decode, Operation, Scheduler
from workers_ai_emulator.engine.sequence import Sequence
from workers_ai_emulator.engine.types import Chunk, FinishReason, ModelRunner

log = logging.getLogger(__name__)

Delivery = list[tuple[Sequence, Event]]


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """The numbers that the metrics endpoint shows for one engine.

    The numbers of slots, running requests and waiting requests are current values; the numbers of
    tokens are totals since the engine's start. `num_drafted_tokens`: how many guessed tokens decode
    calls have evaluated; `num_accepted_tokens`: how many of them were right. `finished`: the number
    of ended requests for each outcome, which is a finish reason or `error`.
    """

    num_slots: int
    num_free_slots: int
    num_running: int
    num_waiting: int
    num_prompt_tokens: int
    num_cached_tokens: int
    num_completion_tokens: int
    num_drafted_tokens: int
    num_accepted_tokens: int
    finished: dict[str, int]


@dataclass(frozen=True, slots=True)
class _Cancel:
    sequence: Sequence


class _Close:
    """The message that ends the worker thread."""


class Worker:
    """The thread that schedules, evaluates and samples the sequences of one model.

    Public methods must be called on the event loop's thread; the callback `deliver` is called on
    the worker thread. `progress`: the number of messages that the worker has received, plus the
    number of operations (such as decode calls) that have ended. Failed and interrupted operations
    and those of a calibration count, too.
    """

    def __init__(
        self,
        runner: ModelRunner,
        scheduler: Scheduler,
        *,
        deliver: Callable[[Delivery], object],
        name: str,
    ) -> None:
        self._runner = runner
        self._vocabulary = runner.vocabulary
        self._scheduler = scheduler
        self._executor = Executor(runner)
        self._deliver = deliver
        self._inbox: SimpleQueue[Sequence | _Cancel | _Close] = SimpleQueue()
        self._outbox: Delivery = []
        self.progress = 0
        self._counts: Counter[str] = Counter()
        self._finished: Counter[str] = Counter()
        self._call_lock = threading.Lock()  # guards `_in_call` and the runner's interrupt flag
        self._in_call: list[Sequence] = []  # the sequences that the current decode call evaluates
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

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
            num_drafted_tokens=counts["drafted"],
            num_accepted_tokens=counts["accepted"],
            finished=dict(self._finished),
        )

    def submit(self, sequence: Sequence) -> None:
        """Puts a new sequence into the worker's inbox."""
        self._inbox.put(sequence)

    def cancel(self, sequence: Sequence) -> None:
        """Cancels the sequence: the worker thread ends it before the next scheduler step.

        Stops the current decode call if all sequences in the call are cancelled.
        """
        sequence.is_cancelled = True
        self._inbox.put(_Cancel(sequence))
        with self._call_lock:
            if _are_cancelled(self._in_call):
                self._runner.interrupt(is_requested=True)

    def close(self) -> None:
        """Sends the worker thread a message to cancel all sequences, free the model and end.

        The thread handles the message after its current step. This method returns at once.
        """
        self._inbox.put(_Close())

    def join(self, limit_s: float) -> None:
        """Waits until the worker thread has ended, for at most `limit_s` seconds."""
        self._thread.join(limit_s)

    # ── on the worker thread ──────────────────────────────────────────────────────────────────

    def _run(self) -> None:
        while self._receive():
            try:
                self._step()
            except Exception as error:
                log.exception("a step failed; all requests end")
                self._fail(self._scheduler.sequences, error)
            self._flush()
        for sequence in self._scheduler.sequences:
            self._end(sequence, FinishReason.CANCELLED)
        self._flush()
        self._runner.close()

    def _receive(self) -> bool:
        """Handles all messages in the inbox; waits for messages while the worker has no sequences.

        Returns False if it has received the message to end the worker thread, otherwise True.
        """
        while self._scheduler.is_idle or not self._inbox.empty():
            if self._scheduler.is_idle:
                self._scheduler.check_integrity()
                self._calibrate()
            message = self._inbox.get()
            self.progress += 1
            if isinstance(message, _Close):
                return False
            if isinstance(message, Sequence):
                self._scheduler.add(message)
            elif not message.sequence.is_finished:
                self._end(message.sequence, FinishReason.CANCELLED)
                self._flush()
        return True

    def _calibrate(self) -> None:
        """Measures decode calls until the drafter knows all durations, or a message arrives."""
        while self._inbox.empty() and self._scheduler.needs_calibration:
            try:
                for operation in self._scheduler.calibrate():
                    self._execute(operation)
            except EngineError as error:
                log.warning("a decode call could not be measured: %s", error)

    def _step(self) -> None:
        """Executes all operations of one scheduler step.

        After each decode call, samples tokens and delivers their text. If an operation fails, the
        affected sequences end, and the rest of the step is skipped.
        """
        for operation in self._scheduler.step():
            try:
                self._execute(operation)
            except Interrupted:
                for sequence in self._scheduler.affected(operation):
                    self._end(sequence, FinishReason.CANCELLED, keep_cells=False)
                return
            except EngineError as error:
                log.error("%s failed: %s", type(operation).__name__, error)
                self._fail(self._scheduler.affected(operation), error)
                return
            if isinstance(operation, Decode):
                self._sample(operation)
                self._flush()

    def _execute(self, operation: Operation) -> None:
        """Executes one operation of the scheduler. If it is a decode call, `cancel` can stop it."""
        if isinstance(operation, Decode):
            sequences = self._scheduler.affected(operation)
            with self._call_lock:
                self._in_call = sequences
                self._runner.interrupt(is_requested=_are_cancelled(sequences))
        try:
            self._executor.execute(operation)
        finally:
            self.progress += 1
            with self._call_lock:
                self._in_call = []

    def _sample(self, call: Decode) -> None:
        """Samples the next tokens of each sequence, and adds their texts to the outbox.

        If sampling fails for a sequence, only this sequence ends.
        """
        for sequence, rows in call.rows:
            try:
                self._take_tokens(sequence, rows)
            except GrammarFailed as error:
                self._finish(sequence, error, "error", keep_cells=False)
            except Exception as error:
                log.exception("sampling failed; the request ends")
                self._fail([sequence], error)

    def _take_tokens(self, sequence: Sequence, rows: range) -> None:
        """Samples one token, and then one token for each draft token that was right.

        `rows`: the indexes of the sequence's logits in the logits of the decode call.
        """
        num_drafted = len(sequence.draft)
        for row in rows:
            self._take_token(sequence, row)
            if not sequence.has_logits:
                break
        self._counts["drafted"] += num_drafted
        self._counts["accepted"] += num_drafted - len(sequence.draft)

    def _take_token(self, sequence: Sequence, row: int) -> None:
        token = self._executor.sample(sequence, row)
        if len(sequence.completion_tokens) == 1:
            self._counts["prompt"] += sequence.num_prompt_tokens
            self._counts["cached"] += sequence.num_cached_tokens
        self._counts["completion"] += 1
        text = sequence.add_piece(self._piece(sequence, token))
        if sequence.finish_reason is None:
            self._outbox.append((sequence, Chunk(text)))
        else:
            self._end(sequence, sequence.finish_reason, text)

    def _piece(self, sequence: Sequence, token: int) -> bytes:
        """Returns the bytes that a token adds to the text of a sequence."""
        if sequence.shows_special_tokens and not self._vocabulary.is_eog(token):
            return self._names.get(token) or self._vocabulary.piece(token)
        return self._vocabulary.piece(token)

    @cached_property
    def _names(self) -> dict[int, bytes]:
        """The name of each special token, such as `<|channel|>`."""
        return {token: name.encode() for name, token in self._vocabulary.special_tokens.items()}

    def _end(
        self,
        sequence: Sequence,
        reason: FinishReason,
        text: str = "",
        *,
        keep_cells: bool = True,
    ) -> None:
        sequence.finish_reason = reason
        self._finish(sequence, Chunk(text, reason), reason.value, keep_cells=keep_cells)

    def _fail(self, sequences: list[Sequence], error: Exception) -> None:
        for sequence in sequences:
            self._finish(sequence, EngineError(str(error)), "error", keep_cells=False)

    def _finish(self, sequence: Sequence, event: Event, outcome: str, *, keep_cells: bool) -> None:
        """Frees the sequence's slot and sampler, and adds its last chunk or error to the outbox."""
        self._scheduler.finish(sequence, keep_cells=keep_cells)
        self._finished[outcome] += 1
        if sequence.sampler is not None:
            sequence.sampler.close()
        self._outbox.append((sequence, event))

    def _flush(self) -> None:
        if self._outbox:
            events, self._outbox = self._outbox, []
            self._deliver(events)


def _are_cancelled(sequences: list[Sequence]) -> bool:
    """Returns whether there are sequences, and all of them are cancelled."""
    return bool(sequences) and all(sequence.is_cancelled for sequence in sequences)
