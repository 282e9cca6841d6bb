"""Tests the bytes of JSON responses and of events."""

from __future__ import annotations

import asyncio
import random
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


def test_the_envelope_of_a_result_has_the_recorded_bytes() -> None:
    assert success({"response": "2 + 2 = 4."}) == (
        b'{"result":{"response":"2 + 2 = 4."},"success":true,"errors":[],"messages":[]}'
    )


def test_an_error_of_workers_ai_ends_with_the_request_id() -> None:
    assert failure(WireError(BAD_INPUT, "x"), UUID).decode() == (
        '{"errors":[{"message":"AiError: Bad input: Error: x '
        f'({UUID})","code":5006}}],"success":false,"result":{{}},"messages":[]}}'
    )


def test_errors_of_the_api_have_the_recorded_order_of_keys() -> None:
    assert failure(WireError(NO_ROUTE), UUID) == (
        b'{"success":false,"errors":[{"code":7000,"message":"No route for that URI"}],'
        b'"messages":[],"result":null}'
    )
    assert failure(WireError(METHOD_NOT_SUPPORTED, "GET"), UUID) == (
        b'{"result":null,"success":false,"errors":[{"code":7001,'
        b'"message":"GET not supported for requested URI."}],"messages":[]}'
    )
    assert b"Could not route to /a/b, perhaps" in failure(WireError(INVALID_ACCOUNT, "/a/b"), UUID)


def test_events_contain_text_as_utf_8_without_escapes() -> None:
    assert event({"response": "•\n"}) == 'data: {"response":"•\\n"}\n\n'.encode()


def test_padding_is_the_last_key_and_is_absent_at_length_0() -> None:
    padding = Padding("seed")
    contents = [padding.pad({"response": "x"}) for _ in range(2000)]
    lengths = {len(content.get("p", "")) for content in contents}
    assert lengths == set(range(50))
    assert all(content.get("p") != "" for content in contents)
    assert all(list(content)[-1] in ("p", "response") for content in contents)
    assert Padding("seed").pad({"response": "x"}) == contents[0]


def test_a_failed_stream_is_cut_off_and_calls_on_end() -> None:
    async def events() -> AsyncIterator[bytes]:
        yield event({"response": "x"})
        raise EngineError("boom")

    sent: list[dict[str, Any]] = []
    ends: list[str] = []

    async def serve() -> None:
        async def send(message: Any) -> None:
            sent.append(message)

        async def receive() -> Any:
            await asyncio.Event().wait()

        stream = EventStream(events(), lambda: ends.append("ended"), {})
        await stream({"type": "http", "method": "POST"}, receive, send)

    asyncio.run(serve())
    assert [message.get("more_body") for message in sent] == [None, True]
    assert ends == ["ended"]


def test_padding_accepts_a_seed_with_lone_surrogates_and_is_otherwise_that_of_the_text() -> None:
    lengths = [len(Padding("a \ud83d").pad({}).get("p", "")) for _ in range(2)]
    assert lengths[0] == lengths[1]
    expected = random.Random("é").randint(0, 49)
    assert len(Padding("é").pad({}).get("p", "")) == expected
