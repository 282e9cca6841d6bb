"""Generations whose chunks come from an async generator, for backends that compute nothing."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from weakref import WeakSet

from workers_ai_emulator.engine.delivery import Event, chunks_of
from workers_ai_emulator.engine.errors import DeadlineExceeded, EngineError
from workers_ai_emulator.engine.types import Chunk, FinishReason, Usage

log = logging.getLogger(__name__)

# A word with the space before it, which stands for a token where no model counts.
WORD = re.compile(r"\s*\S+|\s+")

_MAX_UNREAD = 1024  # chunks; a source that is read more slowly has to wait


def num_words(text: str) -> int:
    """How many tokens a text is taken to have where no model counts."""
    return sum(1 for _ in WORD.finditer(text))


class StreamedGeneration:
    """Passes chunks on until one has a finish reason. However it ends, the source is closed.

    Each chunk counts as a token, unless the source gives a Usage, which then holds.
    """

    def __init__(
        self, source: AsyncGenerator[Chunk | Usage], *, num_prompt_tokens: int, fingerprint: str
    ) -> None:
        self.usage = Usage(num_prompt_tokens, 0)
        self.finish_reason: FinishReason | None = None
        self.fingerprint = fingerprint
        self._is_ended = False
        self._events: asyncio.Queue[Event] = asyncio.Queue(_MAX_UNREAD)
        self._timer: asyncio.TimerHandle | None = None
        self._task = asyncio.create_task(self._pump(source))

    def __aiter__(self) -> AsyncIterator[Chunk]:
        return chunks_of(self._events)

    def cancel(self) -> None:
        self._break_off(Chunk("", FinishReason.CANCELLED))

    def cancel_after(self, limit_s: float) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(limit_s, lambda: self._break_off(DeadlineExceeded()))

    async def _pump(self, source: AsyncGenerator[Chunk | Usage]) -> None:
        async with aclosing(source):
            event = await self._pass_on(source)
            await self._events.put(event)
            self._end(event.finish_reason if isinstance(event, Chunk) else None)

    async def _pass_on(self, source: AsyncGenerator[Chunk | Usage]) -> Event:
        """The last event; all before it are passed on."""
        is_counting = True
        try:
            async for item in source:
                if isinstance(item, Usage):
                    self.usage, is_counting = item, False
                    continue
                if is_counting:
                    counted = self.usage.num_completion_tokens + 1
                    self.usage = Usage(self.usage.num_prompt_tokens, counted)
                if item.finish_reason is not None:
                    return item
                await self._events.put(item)
        except EngineError as error:
            return error
        except Exception as error:
            log.exception("a backend failed; the request ends")
            return EngineError(str(error))
        return EngineError("the text ended without a finish reason")

    def _break_off(self, event: Chunk | DeadlineExceeded) -> None:
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


class Streams:
    """The generations of one backend, which may have to end all at once."""

    def __init__(self) -> None:
        self._begun: WeakSet[StreamedGeneration] = WeakSet()

    def begin(
        self, source: AsyncGenerator[Chunk | Usage], *, num_prompt_tokens: int, fingerprint: str
    ) -> StreamedGeneration:
        generation = StreamedGeneration(
            source, num_prompt_tokens=num_prompt_tokens, fingerprint=fingerprint
        )
        self._begun.add(generation)
        return generation

    def cancel_all(self) -> None:
        """Cancel every one that has not ended."""
        for generation in list(self._begun):
            generation.cancel()
