"""Computes the embeddings of many texts, on several threads.

No call of llama.cpp computes several texts. So the embedding of a text is the same, bit for bit,
whatever other texts are computed at the same time. If there are several texts, each thread computes
another text. That is faster than one text after the other on all threads, because threads that
share a call wait for each other after every operation. A text that is alone is computed by all
threads together, unless a completion is being generated.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Protocol

from workers_ai_emulator.engine.errors import (
    CapacityExceeded,
    EngineClosed,
    EngineError,
    Interrupted,
)
from workers_ai_emulator.engine.pooling import Pooling
from workers_ai_emulator.engine.vector_cache import Vector, VectorCache, key_of

log = logging.getLogger(__name__)

CACHE_BYTES = 32 * 2**20  # the embeddings of 15,000 short texts with 384 dimensions
# The embeddings of a request with more tokens are not cached: looking them up would block the event
# loop for more than a millisecond.
_MAX_CACHED_TOKENS = 50_000
_CLOSE_LIMIT_S = 10
# Added to the nice value of the threads, so that running generations keep most of the processor:
# on Linux, three times the share of these threads. A higher value would nearly stop embeddings
# while other programs use all cores.
_NICE = 5
_MAX_NICE = 19


class TextRunner(Protocol):
    """Computes one text at a time. Only one thread uses it, except for the method `interrupt`."""

    def embed(self, tokens: Sequence[int], pooling: Pooling, num_threads: int) -> Vector:
        """Returns the embedding of a text. Raises Interrupted if `interrupt` stops the call."""

    def interrupt(self, *, is_requested: bool) -> None:
        """Stops the running call of `embed` and later ones, until it is called with False."""

    def close(self) -> None: ...


class _Job:
    """The texts of one request. `vectors`: the embeddings that are computed so far, by index.

    Threads compute its texts only while `is_cancelled` is False.
    """

    def __init__(self, texts: Sequence[Sequence[int]], pooling: Pooling) -> None:
        self.texts = texts
        self.pooling = pooling
        self.next_index = 0
        self.num_left = len(texts)
        self.vectors: list[Any] = [None] * len(texts)
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[list[Vector]] = self.loop.create_future()
        self.is_cancelled = False

    def settle(self, error: EngineError | None = None) -> None:
        """Gives the result or the error to the coroutine that waits for the job."""
        if self.future.done():
            return
        if error is None:
            self.future.set_result(self.vectors)
        else:
            self.future.set_exception(error)


class Embedder:
    """Computes embeddings with one model.

    `create_runner`: returns a runner; it is called `num_runners` times. `num_runners`: how many
    texts are computed at the same time. `num_threads`: the number of threads that compute; the
    runners share them equally. `queue_size`: the maximum number of requests that wait or are
    computed. `is_machine_free`: returns whether no completion is being generated; a text that is
    alone is then computed by all threads together.
    """

    def __init__(
        self,
        create_runner: Callable[[], TextRunner],
        *,
        num_runners: int,
        num_threads: int,
        queue_size: int,
        is_machine_free: Callable[[], bool] = lambda: False,
    ) -> None:
        self._num_threads = num_threads
        self._num_threads_of_runner = max(num_threads // num_runners, 1)
        self._queue_size = queue_size
        self._is_machine_free = is_machine_free
        self._jobs: deque[_Job] = deque()  # jobs with texts that no thread has begun
        self._unfinished: set[_Job] = set()
        self._computing: dict[TextRunner, _Job] = {}
        self._cache = VectorCache(CACHE_BYTES)
        self._is_closed = False
        self._has_own_priority = True  # False once the system has refused a lower priority
        self._lock = threading.Lock()
        self._runners = [create_runner() for _ in range(num_runners)]
        # A runner's thread waits for its condition, so that a text wakes only one thread.
        self._conditions = [threading.Condition(self._lock) for _ in self._runners]
        self._threads = [
            threading.Thread(target=self._work, args=(number,), name="embed", daemon=True)
            for number in range(num_runners)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def is_idle(self) -> bool:
        return not self._unfinished

    async def embed(self, texts: Sequence[Sequence[int]], pooling: Pooling) -> list[Vector]:
        """Returns the embeddings of tokenised texts, which are not normalised.

        Embeddings of recent texts are not computed again, unless the request has very many tokens.
        The other texts of all requests take turns. If the coroutine is cancelled, its texts are
        dropped, and the running computations of its texts are stopped. Raises CapacityExceeded if
        too many requests wait, EngineClosed after `close`, and EngineError if llama.cpp fails.
        """
        if self._is_closed:
            raise EngineClosed("the server is shutting down")
        if len(self._unfinished) >= self._queue_size:
            raise CapacityExceeded
        if sum(map(len, texts)) > _MAX_CACHED_TOKENS:
            return await self._compute(texts, pooling)
        keys = [key_of(text, pooling) for text in texts]
        found = {key: vector for key in keys if (vector := self._cache.find(key)) is not None}
        new = {key: text for key, text in zip(keys, texts, strict=True) if key not in found}
        computed = await self._compute([*new.values()], pooling) if new else []
        for key, vector in zip(new, computed, strict=True):
            self._cache.add(key, vector)
            found[key] = vector
        return [found[key] for key in keys]

    async def _compute(self, texts: Sequence[Sequence[int]], pooling: Pooling) -> list[Vector]:
        """Computes the embeddings on the runners' threads."""
        job = _Job(texts, pooling)
        self._unfinished.add(job)
        try:
            with self._lock:
                self._jobs.append(job)
                self._wake_next()
            return await job.future
        finally:
            self._unfinished.discard(job)
            self._drop(job)

    def cancel_all(self) -> None:
        """Ends all requests with the error EngineClosed."""
        for job in [*self._unfinished]:
            self._drop(job)
            job.settle(EngineClosed("the server is shutting down"))

    async def close(self) -> bool:
        """Ends all requests, stops the threads, and frees their contexts.

        Returns whether all threads have ended. If not, the model must not be freed.
        """
        with self._lock:
            self._is_closed = True
            for condition in self._conditions:
                condition.notify()
        self.cancel_all()
        return await asyncio.to_thread(self._join)

    def _join(self) -> bool:
        """Waits for the threads, all together for at most `_CLOSE_LIMIT_S` seconds."""
        end = time.monotonic() + _CLOSE_LIMIT_S
        for thread, runner in zip(self._threads, self._runners, strict=True):
            thread.join(max(end - time.monotonic(), 0))
            if not thread.is_alive():
                runner.close()
        num_alive = sum(thread.is_alive() for thread in self._threads)
        if num_alive:
            log.warning("%d threads still compute embeddings: their memory is not freed", num_alive)
        return num_alive == 0

    def _drop(self, job: _Job) -> None:
        """Drops the texts of a job, and stops the computation of those that have begun."""
        with self._lock:
            job.is_cancelled = True
            for runner, its_job in self._computing.items():
                if its_job is job:
                    runner.interrupt(is_requested=True)

    def _work(self, number: int) -> None:
        """Computes texts with the runner of this number until `close`."""
        runner = self._runners[number]
        self._lower_priority()
        while (task := self._next(number)) is not None:
            job, index, num_threads = task
            error: EngineError | None = None
            try:
                job.vectors[index] = runner.embed(job.texts[index], job.pooling, num_threads)
            except EngineError as raised:
                error = raised
            except Exception as raised:
                log.exception("computing an embedding failed")
                error = EngineError(str(raised))
            self._end(runner, job, error)

    def _lower_priority(self) -> None:
        """Lowers the priority of this thread. Logs a warning for the first thread if it fails."""
        try:
            _lower_priority()
        except OSError as error:  # for example in a sandbox such as gVisor
            with self._lock:
                is_first, self._has_own_priority = self._has_own_priority, False
            if is_first:
                log.warning(
                    "embeddings are computed with the priority of the process, because the system "
                    "refuses a lower one: %s",
                    error,
                )

    def _next(self, number: int) -> tuple[_Job, int, int] | None:
        """Waits for a text, and returns its job, its index and the number of threads to use.

        Returns None after `close`. The jobs take turns: after each text, the next job follows.
        `number`: the number of the runner that computes the text. A text always goes to the first
        runner that computes nothing. If the runners took turns, texts would take longer, because
        llama.cpp's threads keep their cores busy for a while after each call.
        """
        with self._lock:
            while True:
                while self._jobs and self._jobs[0].is_cancelled:
                    self._jobs.popleft()
                if self._is_closed:
                    return None
                if self._jobs and self._first_idle_number() == number:
                    break
                self._conditions[number].wait()
            job, index, is_alone = self._take(self._runners[number])
        uses_all = is_alone and self._is_machine_free()
        return job, index, self._num_threads if uses_all else self._num_threads_of_runner

    def _take(self, runner: TextRunner) -> tuple[_Job, int, bool]:
        """Takes the next text for a runner. The lock must be held.

        Returns its job, its index, and whether there is no other text to compute.
        """
        job = self._jobs.popleft()
        index = job.next_index
        job.next_index += 1
        if job.next_index < len(job.texts):
            self._jobs.append(job)
        is_alone = not self._jobs and not self._computing
        self._computing[runner] = job
        if self._jobs:
            self._wake_next()
        runner.interrupt(is_requested=False)
        return job, index, is_alone

    def _first_idle_number(self) -> int | None:
        """Returns the number of the first runner that computes nothing; None if all compute."""
        idle = (n for n, runner in enumerate(self._runners) if runner not in self._computing)
        return next(idle, None)

    def _wake_next(self) -> None:
        """Wakes the thread of the first runner that computes nothing. The lock must be held."""
        if (number := self._first_idle_number()) is not None:
            self._conditions[number].notify()

    def _end(self, runner: TextRunner, job: _Job, error: EngineError | None) -> None:
        """Ends the computation of a text, and gives the job its result if this was the last text.

        An error is the result of the whole job. After Interrupted, the job has its result already.
        """
        with self._lock:
            del self._computing[runner]
            job.num_left -= error is None
            is_done = job.num_left == 0
        if error is not None:
            self._drop(job)
        if is_done or not (error is None or isinstance(error, Interrupted)):
            with suppress(RuntimeError):  # the event loop may be closed already
                job.loop.call_soon_threadsafe(job.settle, error)


def _lower_priority() -> None:
    """Lowers the priority of this thread. Does nothing on systems without priorities of threads.

    Raises OSError if the system refuses it.
    """
    if sys.platform == "linux":
        thread = threading.get_native_id()
        nice = min(os.getpriority(os.PRIO_PROCESS, thread) + _NICE, _MAX_NICE)
        os.setpriority(os.PRIO_PROCESS, thread, nice)
