"""Computes the embeddings of many texts, on several threads.

If there are several texts, the threads compute different texts. That is faster than one text after
the other on all threads, because threads that compute a text together wait for each other after
every operation. A text that is alone is computed by all threads together, unless a completion is
being generated. Several short texts, of one or several requests, share a call of llama.cpp (see
embedding_runner.py).
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
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
    """Computes embeddings. Only one thread uses it, except for the method `interrupt`."""

    def can_share_call(self, lengths: Sequence[int], pooling: Pooling) -> bool:
        """Returns whether texts with these numbers of tokens may be computed in one call."""

    def embed(
        self, texts: Sequence[Sequence[int]], pooling: Pooling, num_threads: int
    ) -> list[Vector]:
        """Returns the embeddings of texts. Raises Interrupted if `interrupt` stops the call."""

    def interrupt(self, *, is_requested: bool) -> None:
        """Stops the running call of `embed` and later ones, until it is called with False."""

    def close(self) -> None: ...


class _Job:
    """The texts of one request. `vectors`: the embeddings that are computed so far, by index.

    Threads begin its texts only while `is_cancelled` is False.
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

    @property
    def num_waiting(self) -> int:
        """The number of texts that no thread has begun."""
        return len(self.texts) - self.next_index

    def settle(self, error: EngineError | None = None) -> None:
        """Gives the result or the error to the coroutine, if it still waits for the job."""
        if self.future.done():
            return
        if error is None:
            self.future.set_result(self.vectors)
        else:
            self.future.set_exception(error)


@dataclass(frozen=True, slots=True)
class _Text:
    """One text of a job."""

    job: _Job
    index: int

    @property
    def tokens(self) -> Sequence[int]:
        return self.job.texts[self.index]


class Embedder:
    """Computes embeddings with one model.

    `create_runner`: returns a runner; it is called `num_runners` times. `num_runners`: how many
    calls of llama.cpp run at the same time. `num_threads`: the number of threads that compute, at
    least `num_runners`; the runners share them equally. `queue_size`: a request is refused if this
    number plus `num_runners` others are unfinished. `is_machine_free`: returns whether no
    completion is being generated; a text that is alone is then computed by all threads together.
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
        self._num_threads_of_runner = num_threads // num_runners
        self._max_unfinished = num_runners + queue_size
        self._is_machine_free = is_machine_free
        self._jobs: deque[_Job] = deque()  # jobs with texts that no thread has begun
        self._unfinished: set[_Job] = set()
        self._computing: dict[TextRunner, list[_Text]] = {}
        self._cache = VectorCache(CACHE_BYTES)
        self._is_closed = False
        self._has_own_priority = True  # False once the system has refused a lower priority
        self._lock = threading.Lock()
        self._runners = [create_runner() for _ in range(num_runners)]
        # A runner's thread waits for its condition, so that new texts wake only one thread.
        self._conditions = [threading.Condition(self._lock) for _ in self._runners]
        self._threads = [
            threading.Thread(target=self._work, args=(number,), name="embed", daemon=True)
            for number in range(num_runners)
        ]
        for thread in self._threads:
            thread.start()

    async def embed(self, texts: Sequence[Sequence[int]], pooling: Pooling) -> list[Vector]:
        """Returns the embeddings of tokenised texts, which are not normalised.

        Embeddings of recent texts are not computed again, unless the request has very many tokens.
        The other texts of all requests take turns. If the coroutine is cancelled, its texts are
        dropped, and those that are being computed are stopped, unless they share a call with texts
        of other requests. Raises CapacityExceeded if too many requests wait, EngineClosed after
        `close`, and EngineError if llama.cpp fails.
        """
        if self._is_closed:
            raise EngineClosed("the server is shutting down")
        if len(self._unfinished) >= self._max_unfinished:
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
        for job in self._unfinished:
            job.settle(EngineClosed("the server is shutting down"))

    @property
    def is_running(self) -> bool:
        """Whether a thread has not ended, so that the model must not be freed."""
        return any(thread.is_alive() for thread in self._threads)

    async def close(self) -> bool:
        """Ends all requests, and stops the threads, which free their contexts.

        Waits for the threads, all together for at most `_CLOSE_LIMIT_S` seconds. Returns whether
        all have ended.
        """
        with self._lock:
            self._is_closed = True
            for condition in self._conditions:
                condition.notify()
        self.cancel_all()
        await asyncio.to_thread(self._join)
        return not self.is_running

    def _join(self) -> None:
        end = time.monotonic() + _CLOSE_LIMIT_S
        for thread in self._threads:
            thread.join(max(end - time.monotonic(), 0))
        if num_alive := sum(thread.is_alive() for thread in self._threads):
            log.warning("%d threads still compute embeddings: their memory is not freed", num_alive)

    def _drop(self, job: _Job) -> None:
        """Drops the texts of a job, and stops the calls whose jobs are all cancelled."""
        with self._lock:
            job.is_cancelled = True
            for runner, texts in self._computing.items():
                if all(text.job.is_cancelled for text in texts):
                    runner.interrupt(is_requested=True)

    def _work(self, number: int) -> None:
        """Computes texts with the runner of this number until `close`, then frees the runner."""
        runner = self._runners[number]
        self._lower_priority()
        while (task := self._next(number)) is not None:
            texts, num_threads = task
            self._end(runner, texts, _results(runner, texts, num_threads))
        runner.close()

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

    def _next(self, number: int) -> tuple[list[_Text], int] | None:
        """Waits for texts, and returns those of the next call and the number of threads to use.

        Returns None after `close`. `number`: the number of the runner that computes the texts.
        Texts always go to the first runner that computes nothing. If the runners took turns, texts
        would take longer, because llama.cpp's threads keep their cores busy for a while after each
        call.
        """
        with self._lock:
            while not self._is_closed:
                self._forget_cancelled()
                if self._jobs and self._first_idle_number() == number:
                    break
                self._conditions[number].wait()
            else:
                return None
            texts, is_alone = self._take(self._runners[number])
        uses_all = is_alone and self._is_machine_free()
        return texts, self._num_threads if uses_all else self._num_threads_of_runner

    def _take(self, runner: TextRunner) -> tuple[list[_Text], bool]:
        """Takes the texts of a runner's next call. The lock must be held.

        Returns the texts, and whether there are no others to compute.
        """
        num_waiting = sum(job.num_waiting for job in self._jobs if not job.is_cancelled)
        num_idle = len(self._runners) - len(self._computing)
        max_texts = math.ceil(num_waiting / num_idle)  # leaves the other idle runners their share
        texts = [self._pop()]
        pooling, lengths = texts[0].job.pooling, [len(texts[0].tokens)]
        while len(texts) < max_texts and self._jobs and self._jobs[0].pooling is pooling:
            job = self._jobs[0]
            lengths.append(len(job.texts[job.next_index]))
            if not runner.can_share_call(lengths, pooling):
                break
            texts.append(self._pop())
        is_alone = not self._jobs and not self._computing
        self._computing[runner] = texts
        if self._jobs:
            self._wake_next()
        runner.interrupt(is_requested=False)
        return texts, is_alone

    def _pop(self) -> _Text:
        """Takes the next text. The jobs take turns: after each text, the next job follows."""
        job = self._jobs.popleft()
        text = _Text(job, job.next_index)
        job.next_index += 1
        if job.num_waiting:
            self._jobs.append(job)
        self._forget_cancelled()
        return text

    def _forget_cancelled(self) -> None:
        while self._jobs and self._jobs[0].is_cancelled:
            self._jobs.popleft()

    def _first_idle_number(self) -> int | None:
        """Returns the number of the first runner that computes nothing; None if all compute."""
        idle = (n for n, runner in enumerate(self._runners) if runner not in self._computing)
        return next(idle, None)

    def _wake_next(self) -> None:
        """Wakes the thread of the first runner that computes nothing. The lock must be held."""
        if (number := self._first_idle_number()) is not None:
            self._conditions[number].notify()

    def _end(
        self, runner: TextRunner, texts: Sequence[_Text], results: Sequence[Vector | EngineError]
    ) -> None:
        """Stores the results of a call, and ends the jobs that are complete or have failed.

        An error is the result of the whole job. After Interrupted, a job has its result already,
        and keeps it.
        """
        ended: dict[_Job, EngineError | None] = {}
        with self._lock:
            del self._computing[runner]
            for text, result in zip(texts, results, strict=True):
                job = text.job
                if isinstance(result, EngineError):
                    ended[job] = result
                    continue
                job.vectors[text.index] = result
                job.num_left -= 1
                if job.num_left == 0:
                    ended[job] = None
        for job, error in ended.items():
            with suppress(RuntimeError):  # the event loop may be closed already
                job.loop.call_soon_threadsafe(job.settle, error)


def _results(
    runner: TextRunner, texts: Sequence[_Text], num_threads: int
) -> list[Vector | EngineError]:
    """Computes texts in one call, and returns the embedding or the error of each.

    If the call fails, each text gets a call of its own, so that a text does not fail because of
    another.
    """
    error: EngineError
    try:
        return [*runner.embed([t.tokens for t in texts], texts[0].job.pooling, num_threads)]
    except Interrupted as raised:
        return [raised] * len(texts)
    except EngineError as raised:
        error = raised
    except Exception as raised:
        log.exception("computing an embedding failed")
        error = EngineError(str(raised))
    if len(texts) == 1:
        return [error]
    return [result for text in texts for result in _results(runner, [text], num_threads)]


def _lower_priority() -> None:
    """Lowers the priority of this thread. Does nothing on systems without priorities of threads.

    Raises OSError if the system refuses it.
    """
    if sys.platform == "linux":
        thread = threading.get_native_id()
        nice = min(os.getpriority(os.PRIO_PROCESS, thread) + _NICE, _MAX_NICE)
        os.setpriority(os.PRIO_PROCESS, thread, nice)
