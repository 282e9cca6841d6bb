"""A generation whose chunks come from an async iterator, for backends that compute nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from emulator.engine.types import Chunk, FinishReason, Usage
from emulator.errors import ApiError, EngineError, RequestTimeout


class StreamedGeneration:
    """Passes chunks on until one has a finish reason.

    `usage` counts chunks as tokens, unless the iterator knows better and says so.
    """

    def __init__(
        self, chunks: AsyncIterator[Chunk], *, num_prompt_tokens: int, fingerprint: str
    ) -> None:
        self.usage = Usage(num_prompt_tokens, 0)
        self.finish_reason: FinishReason | None = None
        self.fingerprint = fingerprint
        self._events: asyncio.Queue[Chunk | EngineError | ApiError] = asyncio.Queue()
        self._timer: asyncio.TimerHandle | None = None
        self._task = asyncio.create_task(self._pump(chunks))

    async def __aiter__(self) -> AsyncIterator[Chunk]:
        while True:
            event = await self._events.get()
            if not isinstance(event, Chunk):
                raise event
            yield event
            if event.finish_reason is not None:
                return

    def cancel(self) -> None:
        if not self._task.done():
            self._task.cancel()
            self._end(Chunk("", FinishReason.CANCELLED))

    def cancel_after(self, limit_s: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(limit_s, self._expire)

    async def _pump(self, chunks: AsyncIterator[Chunk]) -> None:
        try:
            async for chunk in chunks:
                usage = self.usage
                self.usage = Usage(usage.num_prompt_tokens, usage.num_completion_tokens + 1)
                if chunk.finish_reason is not None:
                    self._end(chunk)
                    return
                self._events.put_nowait(chunk)
        except (ApiError, EngineError) as error:
            self._end(error)

    def _expire(self) -> None:
        if not self._task.done():
            self._task.cancel()
            self._end(RequestTimeout())

    def _end(self, event: Chunk | EngineError | ApiError) -> None:
        self.finish_reason = (
            event.finish_reason if isinstance(event, Chunk) else FinishReason.CANCELLED
        )
        if self._timer is not None:
            self._timer.cancel()
        self._events.put_nowait(event)
