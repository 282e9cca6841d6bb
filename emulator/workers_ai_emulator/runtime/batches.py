"""Batches: lists of requests that the server runs in the background, and their results.

A batch is stored in memory: until it has ended, and then for RETENTION_S.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from workers_ai_emulator.engine.types import Usage
from workers_ai_emulator.wire.errors import INTERNAL_ERROR, OUT_OF_CAPACITY, WireError

log = logging.getLogger(__name__)

RETENTION_S = 24 * 3600  # how long the results of a batch are kept after its end
MAX_BYTES = 256 * 2**20  # limit for the requests and the results of all batches together
PATIENCE_S = 5.0  # how long a request of a batch waits for other calls to end
MAX_TRIES = 10  # how often a request is run if the server has no capacity for it

_CHECK_S = 0.05  # how often the queue checks whether other calls have ended
# The estimated memory of a batch, and of a request with its result, without their texts.
_BATCH_BYTES = 2**14
_REQUEST_BYTES = 2**10


class BatchStatus(Enum):
    QUEUED = "queued"  # no request of the batch has started
    RUNNING = "running"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class BatchResult:
    """The result of one request of a batch.

    `result`: the JSON of the model's result; None if the request has failed with `error`.
    `is_refused`: whether the request has failed because the server had no capacity for it; it may
    be tried again. `is_unmatched`: whether no rule of the script applied to the request.
    """

    result: bytes | None
    usage: Usage = field(default_factory=lambda: Usage(0, 0))
    error: WireError | None = None
    is_refused: bool = False
    is_unmatched: bool = False

    @property
    def num_bytes(self) -> int:
        """The size of the result."""
        return len(self.result or b"")


# Runs one request of a batch.
RunRequest = Callable[[Any], Awaitable[BatchResult]]


class Batch:
    """A list of requests for one model, and their results.

    `requests`: the model's inputs. `references`: the reference of each request, which the response
    repeats. `results`: the results in the order of the requests; None for requests that have not
    ended. `is_retrieved`: whether the client has got the results.
    """

    def __init__(
        self,
        account: str | None,
        model: str,
        requests: Sequence[Any],
        references: Sequence[Any],
        run: RunRequest,
        *,
        num_bytes: int,
    ) -> None:
        self.id = str(uuid.uuid4())
        self.account = account
        self.model = model
        self.references = [*references]
        self.results: list[BatchResult | None] = [None] * len(requests)
        self.is_retrieved = False
        self.num_bytes = _BATCH_BYTES + _REQUEST_BYTES * len(requests) + num_bytes
        self._requests = [*requests]
        self._run = run
        self._waiting = deque(range(len(requests)))
        self._num_tries = [0] * len(requests)
        self._num_ended = 0
        self.ended_at: float | None = None

    @property
    def status(self) -> BatchStatus:
        if self.ended_at is not None:
            return BatchStatus.ENDED
        return BatchStatus.RUNNING if any(self._num_tries) else BatchStatus.QUEUED

    @property
    def has_waiting(self) -> bool:
        """Whether the batch has requests that do not run yet."""
        return bool(self._waiting)

    def take(self) -> int:
        """Removes the first waiting request from the queue, and returns its index."""
        index = self._waiting.popleft()
        self._num_tries[index] += 1
        return index

    async def run(self, index: int) -> BatchResult | None:
        """Runs a request, and returns its result.

        Returns None if the server has no capacity for the request, and it may be tried again.
        """
        try:
            result = await self._run(self._requests[index])
        except Exception:
            log.exception("a request of a batch failed")
            result = BatchResult(None, error=WireError(INTERNAL_ERROR))
        return None if result.is_refused and self._num_tries[index] < MAX_TRIES else result

    def put_back(self, index: int) -> None:
        """Adds a request to the front of the queue again."""
        self._waiting.appendleft(index)

    def store(self, index: int, result: BatchResult, now: float) -> None:
        """Stores the result of a request. The batch ends with its last result."""
        self.results[index] = result
        self._requests[index] = None
        self._num_ended += 1
        if self._num_ended == len(self.results):
            self.ended_at = now


class BatchQueue:
    """Runs the requests of batches in the background, and stores their results.

    The models take turns: after each request, one of another model starts if one waits. For each
    model, the oldest batch comes first. A request starts when no other call is in progress; if
    other calls do not end, it starts after `patience_s` seconds. All methods must be called on the
    event loop's thread.

    `is_busy`: returns whether calls are in progress that do not belong to a batch. `num_parallel`:
    how many requests run at the same time. `max_bytes`: the limit for all requests and results.
    `clock`: returns a time in seconds.
    """

    def __init__(
        self,
        *,
        is_busy: Callable[[], bool],
        num_parallel: int,
        patience_s: float = PATIENCE_S,
        max_bytes: int = MAX_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._is_busy = is_busy
        self._num_parallel = num_parallel
        self._patience_s = patience_s
        self._max_bytes = max_bytes
        self._clock = clock
        self._batches: dict[str, Batch] = {}  # the oldest batch comes first
        self._num_started = 0  # requests
        self._last_starts: dict[str, int] = {}  # by model: the number of its last started request
        self._num_bytes = 0
        self._running: dict[asyncio.Task[None], Batch] = {}
        self._starting: asyncio.Task[None] | None = None
        self._progress = asyncio.Event()  # set when a request has ended

    def submit(self, batch: Batch) -> None:
        """Queues the requests of a batch.

        Raises WireError if the batches that are stored leave no memory for it.
        """
        self._expire()
        if not self._make_room(batch.num_bytes):
            log.warning(
                "a batch is refused: the %d stored batches and this one need more than %d MiB; "
                "retrieve their results, or discard them with POST /_emulator/reset",
                len(self._batches),
                self._max_bytes // 2**20,
            )
            raise WireError(OUT_OF_CAPACITY)
        log.info(
            "batch %s is queued (model %s, requests: %d, waiting batches of the model: %d)",
            batch.id,
            batch.model,
            len(batch.results),
            sum(each.has_waiting for each in self._batches.values() if each.model == batch.model),
        )
        self._batches[batch.id] = batch
        self._num_bytes += batch.num_bytes
        self._start()

    def find(self, account: str | None, model: str, id: str) -> Batch | None:
        """Returns the account's batch with this id for this model, or None."""
        self._expire()
        batch = self._batches.get(id)
        is_found = batch and (batch.account, batch.model) == (account, model)
        return batch if is_found else None

    def reset(self, account: str | None = None) -> None:
        """Discards the batches of an account, or all batches if `account` is None.

        Cancels the requests of these batches that run.
        """
        for batch in [*self._batches.values()]:
            if account in (None, batch.account):
                self._discard(batch)
                for task in [task for task, each in self._running.items() if each is batch]:
                    task.cancel()

    async def close(self) -> None:
        """Discards all batches, and waits until their requests have been cancelled."""
        self.reset()
        tasks = [*self._running]
        if self._starting is not None:
            self._starting.cancel()
            tasks.append(self._starting)
        await asyncio.gather(*tasks, return_exceptions=True)

    def _start(self) -> None:
        """Starts the task that starts the waiting requests, if it does not run already."""
        if self._starting is None or self._starting.done():
            self._starting = asyncio.create_task(self._start_requests())

    async def _start_requests(self) -> None:
        while self._next() is not None:
            await self._wait_for_room()
            if (batch := self._next()) is not None:
                self._num_started += 1
                self._last_starts[batch.model] = self._num_started
                task = asyncio.create_task(self._run(batch, batch.take()))
                self._running[task] = batch
                task.add_done_callback(self._end)

    def _next(self) -> Batch | None:
        """Returns the batch whose request starts next, or None if no batch has waiting requests.

        It is the oldest batch of the model whose last request started the longest time ago.
        """
        waiting = (batch for batch in self._batches.values() if batch.has_waiting)
        return min(waiting, key=lambda batch: self._last_starts.get(batch.model, 0), default=None)

    async def _wait_for_room(self) -> None:
        """Waits until a request of a batch may start."""
        deadline = self._clock() + self._patience_s
        while len(self._running) >= self._num_parallel or (
            self._is_busy() and self._clock() < deadline
        ):
            self._progress.clear()
            try:
                await asyncio.wait_for(self._progress.wait(), _CHECK_S)
            except TimeoutError:
                continue

    async def _run(self, batch: Batch, index: int) -> None:
        result = await batch.run(index)
        if result is not None:
            self._store(batch, index, result)
            return
        # Does not end before the wait, so that no other request of a batch starts meanwhile.
        await asyncio.sleep(self._patience_s)
        batch.put_back(index)
        self._start()

    def _store(self, batch: Batch, index: int, result: BatchResult) -> None:
        if not self._make_room(result.num_bytes):
            log.warning(
                "a result of batch %s is discarded: all results need more than %d MiB; queue "
                "smaller batches, and retrieve the results of each",
                batch.id,
                self._max_bytes // 2**20,
            )
            result = replace(result, result=None, error=WireError(OUT_OF_CAPACITY))
        batch.store(index, result, self._clock())
        batch.num_bytes += result.num_bytes
        self._num_bytes += result.num_bytes
        if batch.status is BatchStatus.ENDED:
            num_failed = sum(each is not None and each.error is not None for each in batch.results)
            log.info("batch %s has ended (failed requests: %d)", batch.id, num_failed)

    def _discard(self, batch: Batch) -> None:
        del self._batches[batch.id]
        self._num_bytes -= batch.num_bytes

    def _end(self, task: asyncio.Task[None]) -> None:
        del self._running[task]
        self._progress.set()

    def _make_room(self, num_bytes: int) -> bool:
        """Returns whether `num_bytes` more can be stored.

        If necessary, discards batches whose results the client has got already, the oldest first.
        """
        while self._num_bytes + num_bytes > self._max_bytes:
            retrieved = next((each for each in self._batches.values() if each.is_retrieved), None)
            if retrieved is None:
                return False
            self._discard(retrieved)
        return True

    def _expire(self) -> None:
        """Discards the batches that ended more than RETENTION_S ago."""
        limit = self._clock() - RETENTION_S
        for batch in [*self._batches.values()]:
            if batch.ended_at is not None and batch.ended_at < limit:
                self._discard(batch)
