"""Defines the events of a generation: chunks of text, or an error.

The engine and the backends without an engine use this module.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from workers_ai_emulator.engine.errors import EngineError
from workers_ai_emulator.engine.types import Chunk

Event = Chunk | EngineError


async def chunks_of(events: asyncio.Queue[Event]) -> AsyncIterator[Chunk]:
    """Yields the chunks in a queue, up to and including the first one with a finish reason.

    If the queue contains an error, raises this error.
    """
    while True:
        event = await events.get()
        if not isinstance(event, Chunk):
            raise event
        yield event
        if event.finish_reason is not None:
            return
