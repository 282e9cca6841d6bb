"""Tests the bytes of JSON responses and of events."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest
from workers_ai_emulator.engine.errors import EngineError
from workers_ai_emulator.wire.envelope import (
    PADDING,
    VALUE,
    EventTemplate,
    Padding,
    RandomPadding,
    Written,
    event,
    failure,
    json_text,
    success,
    to_json,
    written_numbers,
)
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


def test_written_parts_are_copied_in_their_order() -> None:
    items: list[Any] = [{"é": [1, "\ud800"]}, [], "x", None]
    written = [Written(to_json(item)) for item in items]
    parts = {"first": Written(b'{"a":1}'), "items": written, "last": "é"}
    whole = {"first": {"a": 1}, "items": items, "last": "é"}
    assert to_json(parts) == to_json(whole)
    assert success(parts) == success(whole)


def test_a_list_of_floats_is_written_as_the_shortest_numbers_that_have_the_same_value() -> None:
    numbers = [0.1, -0.000000123, 1.0, -0.0, 5e-324, 0.123456789]
    assert json.loads(written_numbers(numbers).json) == numbers
    assert written_numbers([0.5, 0.25]).json == b"[0.5,0.25]"
    assert written_numbers([]).json == b"[]"
    assert written_numbers([1e999, -1e999, float("nan")]).json == b"[null,null,null]"


@pytest.mark.parametrize("number", [1e999, -1e999, float("nan")])
def test_numbers_that_are_not_finite_become_null(number: float) -> None:
    value = {"a": [number, {"b": number}], "c": 1.5}
    assert json_text(value) == '{"a":[null,{"b":null}],"c":1.5}' == to_json(value).decode()
    assert to_json([number, Written(b"1"), number, Written(b"2")]) == b"[null,1,null,2]"


def test_other_objects_are_not_written() -> None:
    with pytest.raises(TypeError, match="set cannot be written"):
        to_json([{1}])


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


def lengths(padding: Padding | RandomPadding) -> set[int]:
    """Returns the lengths of 2,000 paddings. Each has the form `,"p":"abc"` or is empty."""
    texts = [padding.next() for _ in range(2000)]
    assert all(text == "" or (text[:6] == ',"p":"' and text[-1] == '"') for text in texts)
    return {len(text[6:-1]) for text in texts}


def test_padding_has_the_recorded_lengths() -> None:
    assert lengths(Padding("seed")) == set(range(50))
    assert lengths(Padding("seed", has_tools=True)) == set(range(5, 51))
    assert lengths(RandomPadding("seed")) == set(range(51))


def test_the_same_seed_gives_the_same_padding() -> None:
    for kind in (Padding, RandomPadding):
        first, second = kind("seed"), kind("seed")
        assert [first.next() for _ in range(9)] == [second.next() for _ in range(9)]


def test_a_template_writes_the_same_bytes_as_a_whole_event() -> None:
    template = EventTemplate({"100 %": "é", "x": [VALUE], "p": PADDING, "y": VALUE})
    written = template.fill('"\\"%s"', ',"p":"ab"', "null")
    assert written == event({"100 %": "é", "x": ['"%s'], "p": "ab", "y": None})
    assert template.fill("1", "", "2") == event({"100 %": "é", "x": [1], "y": 2})


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
    assert Padding("a \ud83d").next() == Padding("a \ud83d").next()
    expected = random.Random("é").randint(0, 49)
    assert len(Padding("é").next()) == len(',"p":""') + expected
