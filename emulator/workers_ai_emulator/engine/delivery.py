"""The events of a generation: chunks, or one error. Other sources of completions use it, too."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from workers_ai_emulator.engine.errors import EngineError
from workers_ai_emulator.engine.types import Chunk

Event = Chunk | EngineError


async def chunks_of(events: asyncio.Queue[Event]) -> AsyncIterator[Chunk]:
    """Yields chunks up to the first one with a finish reason. Raises an error from the queue."""
    while True:
        event = await events.get()
        if not isinstance(event, Chunk):
            raise event
        yield event
        if event.finish_reason is not None:
            return
