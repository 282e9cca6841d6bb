"""Turns a queue of chunks and errors into an async iterator of chunks.

The engine uses this module, and so do the backends that run no model.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from workers_ai_emulator.engine.types import Chunk
from workers_ai_emulator.errors import EmulatorError

Event = Chunk | EmulatorError


async def chunks_of(events: asyncio.Queue[Event]) -> AsyncIterator[Chunk]:
    """Yields the chunks from a queue. The last chunk is the one that has a finish reason.

    If an item of the queue is an error, raises that error.
    """
    while True:
        event = await events.get()
        if not isinstance(event, Chunk):
            raise event
        yield event
        if event.finish_reason is not None:
            return
