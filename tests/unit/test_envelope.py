"""The bytes of envelopes and events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from workers_ai_emulator.engine.errors import EngineError
from workers_ai_emulator.wire.envelope import Padding, event, failure, success
from workers_ai_emulator.wire.errors import (
    BAD_INPUT,
    INVALID_ACCOUNT,
    METHOD_NOT_SUPPORTED,
    NO_ROUTE,
    WireError,
)
from workers_ai_emulator.wire.responses import EventStream

UUID = "d9e09afe-fe49-4051-bc1d-8901f858ff52"


def test_success_is_byte_for_byte_the_recorded_form() -> None:
    assert success({"response": "2 + 2 = 4."}) == (
        b'{"result":{"response":"2 + 2 = 4."},"success":true,"errors":[],"messages":[]}'
    )


def test_an_error_of_workers_ai_ends_in_the_request_id() -> None:
    assert failure(WireError(BAD_INPUT, "x"), UUID).decode() == (
        '{"errors":[{"message":"AiError: Bad input: Error: x '
        f'({UUID})","code":5006}}],"success":false,"result":{{}},"messages":[]}}'
    )


def test_errors_of_the_front_have_the_recorded_key_orders() -> None:
    assert failure(WireError(NO_ROUTE), UUID) == (
        b'{"success":false,"errors":[{"code":7000,"message":"No route for that URI"}],'
        b'"messages":[],"result":null}'
    )
    assert failure(WireError(METHOD_NOT_SUPPORTED, "GET"), UUID) == (
        b'{"result":null,"success":false,"errors":[{"code":7001,'
        b'"message":"GET not supported for requested URI."}],"messages":[]}'
    )
    assert b"Could not route to /a/b, perhaps" in failure(WireError(INVALID_ACCOUNT, "/a/b"), UUID)


def test_text_stands_in_events_as_it_is() -> None:
    assert event({"response": "•\n"}) == 'data: {"response":"•\\n"}\n\n'.encode()


def test_padding_is_the_last_key_and_absent_at_length_0() -> None:
    padding = Padding("seed")
    frames = [padding.pad({"response": "x"}) for _ in range(2000)]
    lengths = {len(frame.get("p", "")) for frame in frames}
    assert lengths == set(range(50))
    assert all(frame.get("p") != "" and list(frame)[-1] in ("p", "response") for frame in frames)
    assert Padding("seed").pad({"response": "x"}) == frames[0]


class StubGeneration:
    def __init__(self) -> None:
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


def test_a_stream_that_fails_breaks_off_and_cancels() -> None:
    async def frames() -> AsyncIterator[bytes]:
        yield event({"response": "x"})
        raise EngineError("boom")

    sent: list[dict[str, Any]] = []
    generation = StubGeneration()

    async def serve() -> None:
        async def send(message: Any) -> None:
            sent.append(message)

        async def receive() -> Any:
            await asyncio.Event().wait()

        stream = EventStream(frames(), generation.cancel, {})
        await stream({"type": "http", "method": "POST"}, receive, send)

    asyncio.run(serve())
    assert [message.get("more_body") for message in sent] == [None, True]
    assert generation.is_cancelled
