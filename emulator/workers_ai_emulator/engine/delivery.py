"""How a generation's events come to its reader."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from workers_ai_emulator.engine.errors import EngineError
from workers_ai_emulator.engine.types import Chunk

Event = Chunk | EngineError


async def chunks_of(events: asyncio.Queue[Event]) -> AsyncIterator[Chunk]:
    """The chunks, up to one with a finish reason. Raises an error that comes instead."""
    while True:
        event = await events.get()
        if not isinstance(event, Chunk):
            raise event
        yield event
        if event.finish_reason is not None:
            return
