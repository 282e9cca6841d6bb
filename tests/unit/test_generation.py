"""Where the work on a request's body is done."""

from __future__ import annotations

import asyncio
import threading

import pytest
from starlette.requests import Request
from starlette.types import Message
from workers_ai_emulator.wire.body import compute, read_json
from workers_ai_emulator.wire.context import CallContext


@pytest.mark.parametrize(("num_messages", "is_apart"), [(1, False), (50_000, True)])
def test_a_long_body_is_computed_beside_the_event_loop(num_messages: int, is_apart: bool) -> None:
    async def receive() -> Message:
        return {"type": "http.request", "body": b"[" + b"0," * num_messages + b"0]"}

    async def thread_of_computation() -> int:
        request = Request({"type": "http", "method": "POST", "headers": []}, receive)
        context = CallContext()
        assert len(await read_json(request.stream(), context)) == num_messages + 1
        return await compute(context, threading.get_ident)

    assert (asyncio.run(thread_of_computation()) != threading.get_ident()) is is_apart
