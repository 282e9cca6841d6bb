"""Generations that get their chunks from a list or an async generator instead of llama.cpp."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from weakref import WeakSet

from workers_ai_emulator.engine.delivery import Event, chunks_of
from workers_ai_emulator.engine.errors import DeadlineExceeded, EngineError
from workers_ai_emulator.engine.types import Chunk, FinishReason, Usage
from workers_ai_emulator.errors import EmulatorError

log = logging.getLogger(__name__)

# Matches a word and the white space before it. Backends without a tokenizer, such as `scripted`,
# count each word as one token.
WORD = re.compile(r"\s*\S+|\s+")

# The maximum number of chunks in a generation's queue. While the queue is full, the generation does
# not read further chunks from its source.
MAX_UNREAD = 1024


def num_words(text: str) -> int:
    """Returns the number of words in the text, as an estimate of its number of tokens."""
    return sum(1 for _ in WORD.finditer(text))


class ReadyGeneration:
    """A Generation whose chunks are all known at its start. The last one has a finish reason.

    It needs no task and no queue. Cancelling it has no effect, because it has already ended.
    """

    def __init__(
        self, chunks: Sequence[Chunk], *, num_prompt_tokens: int, fingerprint: str
    ) -> None:
        self.usage = Usage(num_prompt_tokens, sum(chunk.num_tokens for chunk in chunks))
        self.finish_reason = chunks[-1].finish_reason
        self.fingerprint = fingerprint
        self._chunks = chunks

    async def __aiter__(self) -> AsyncIterator[Chunk]:
        for chunk in self._chunks:
            yield chunk

    def cancel(self) -> None: ...

    def cancel_after(self, limit_s: float) -> None: ...


class RelayedGeneration:
    """A Generation whose chunks come from `source`, an async generator.

    A task reads chunks from `source` until a chunk has a finish reason, `source` fails, or the
    generation is cancelled. Then the task closes `source`. `usage` counts the tokens of the chunks
    (`num_tokens`). If `source` yields a Usage, `usage` becomes this Usage instead.
    """

    def __init__(
        self, source: AsyncGenerator[Chunk | Usage], *, num_prompt_tokens: int, fingerprint: str
    ) -> None:
        self._num_prompt_tokens = num_prompt_tokens
        self._num_tokens = 0
        self._reported_usage: Usage | None = None
        self.finish_reason: FinishReason | None = None
        self.fingerprint = fingerprint
        self._is_ended = False
        self._events: asyncio.Queue[Event] = asyncio.Queue(MAX_UNREAD)
        self._timer: asyncio.TimerHandle | None = None
        self._task = asyncio.create_task(self._relay(source))

    def __aiter__(self) -> AsyncIterator[Chunk]:
        return chunks_of(self._events)

    @property
    def usage(self) -> Usage:
        return self._reported_usage or Usage(self._num_prompt_tokens, self._num_tokens)

    def cancel(self) -> None:
        self._end_early(Chunk("", FinishReason.CANCELLED))

    def cancel_after(self, limit_s: float) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(limit_s, lambda: self._end_early(DeadlineExceeded()))

    async def _relay(self, source: AsyncGenerator[Chunk | Usage]) -> None:
        async with aclosing(source):
            event = await self._relay_until_last(source)
            await self._events.put(event)
            self._end(event.finish_reason if isinstance(event, Chunk) else None)

    async def _relay_until_last(self, source: AsyncGenerator[Chunk | Usage]) -> Event:
        """Puts all chunks except the last into the queue. Returns the last chunk, or an error."""
        try:
            async for item in source:
                if isinstance(item, Usage):
                    self._reported_usage = item
                    continue
                self._num_tokens += item.num_tokens
                if item.finish_reason is not None:
                    return item
                await self._events.put(item)
        except EmulatorError as error:
            return error
        except Exception as error:
            log.exception("a backend failed; its request ends with an error")
            return EngineError(str(error))
        return EngineError("the text ended without a finish reason")

    def _end_early(self, event: Chunk | DeadlineExceeded) -> None:
        if self._is_ended:
            return
        self._task.cancel()
        if self._events.full():
            self._events.get_nowait()
        self._events.put_nowait(event)
        self._end(FinishReason.CANCELLED)

    def _end(self, reason: FinishReason | None) -> None:
        self._is_ended = True
        self.finish_reason = reason
        if self._timer is not None:
            self._timer.cancel()


class RunningGenerations:
    """Starts the generations of one backend, and can cancel them all."""

    def __init__(self) -> None:
        self._started: WeakSet[RelayedGeneration] = WeakSet()

    def start(
        self, source: AsyncGenerator[Chunk | Usage], *, num_prompt_tokens: int, fingerprint: str
    ) -> RelayedGeneration:
        generation = RelayedGeneration(
            source, num_prompt_tokens=num_prompt_tokens, fingerprint=fingerprint
        )
        self._started.add(generation)
        return generation

    def cancel_all(self) -> None:
        """Cancels all started generations that have not ended."""
        for generation in list(self._started):
            generation.cancel()
