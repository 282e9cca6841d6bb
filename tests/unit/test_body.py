"""Tests request bodies: size limits, gzip, JSON, and parsing large bodies in a thread."""

from __future__ import annotations

import asyncio
import gzip
import json
import threading
from collections.abc import AsyncIterator, Iterable
from typing import Any

import pytest
from starlette.requests import ClientDisconnect
from starlette.types import Message
from workers_ai_emulator.wire.body import (
    MAX_BODY_BYTES,
    MAX_DEPTH,
    compute,
    gunzip,
    parse_json,
    read_body,
    read_json,
)
from workers_ai_emulator.wire.context import CallContext
from workers_ai_emulator.wire.errors import (
    INCOMPLETE_REQUEST,
    REQUEST_TOO_LARGE,
    ErrorType,
    WireError,
)

from tests.asgi import receiver


def read(*parts: bytes, context: CallContext | None = None) -> Any:
    async def stream(parts: Iterable[bytes]) -> AsyncIterator[bytes]:
        for part in parts:
            yield part

    return asyncio.run(read_json(stream(parts), context or CallContext()))


@pytest.mark.parametrize(("num_messages", "uses_thread"), [(1, False), (50_000, True)])
def test_a_large_body_is_parsed_in_a_thread(num_messages: int, uses_thread: bool) -> None:
    context = CallContext()
    assert len(read(b"[" + b"0," * num_messages + b"0]", context=context)) == num_messages + 1
    assert context.is_large is uses_thread
    thread = asyncio.run(compute(context, threading.get_ident))
    assert (thread != threading.get_ident()) is uses_thread


def test_a_body_with_many_objects_is_large() -> None:
    context = CallContext()
    read(b"[" + b"{}," * 1000 + b"0]", context=context)
    assert context.is_large


def test_a_small_body_that_is_large_when_decompressed_is_large() -> None:
    context = CallContext()
    assert read(gzip.compress(b" " * 10**6 + b"1"), context=context) == 1
    assert context.is_large


def test_the_parts_of_a_body_are_joined() -> None:
    assert read(b'{"a"', b"", b': "\xc3', b'\xa9"}') == {"a": "é"}
    compressed = gzip.compress(b'{"a": 1}')
    assert read(compressed[:1], compressed[1:]) == {"a": 1}


def test_a_body_may_have_the_maximum_size_but_no_byte_more() -> None:
    largest = b"1".rjust(MAX_BODY_BYTES)
    assert read(largest) == 1
    for parts in ((b" ", largest), (gzip.compress(b" " + largest),)):
        with pytest.raises(WireError) as caught:
            read(*parts)
        assert caught.value.type is REQUEST_TOO_LARGE


def test_the_rest_of_a_body_that_is_too_large_is_not_read() -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield bytes(2**20)

    with pytest.raises(WireError, match="too large"):
        asyncio.run(read_json(endless(), CallContext()))


def test_gzip_data_may_have_several_members() -> None:
    assert gunzip(gzip.compress(b'{"a"') + gzip.compress(b": 1}")) == b'{"a": 1}'


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (gzip.compress(b"{}", mtime=0)[:-4], INCOMPLETE_REQUEST),
        (b"\x1f\x8b", INCOMPLETE_REQUEST),
        (b"\x1f\x8bnot gzip", INCOMPLETE_REQUEST),
        (gzip.compress(b"{}", mtime=0) + b"{}", INCOMPLETE_REQUEST),
        (gzip.compress(bytes(MAX_BODY_BYTES + 1), mtime=0), REQUEST_TOO_LARGE),
    ],
    ids=["cut off", "no header", "damaged", "followed by other data", "too large"],
)
def test_invalid_gzip_is_an_error(body: bytes, error: ErrorType) -> None:
    with pytest.raises(WireError) as caught:
        gunzip(body)
    assert caught.value.type is error


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"  \n",
        b"not json",
        b"{",
        b'{"prompt": NaN}',
        b'{"prompt": Infinity}',
        b"[" * 100_000,
        b"[" * 10_000 + b"]" * 10_000,
    ],
    ids=lambda body: repr(body[:12]),
)
def test_a_body_that_is_not_json_is_an_incomplete_request(body: bytes) -> None:
    with pytest.raises(WireError, match="Request is missing"):
        parse_json(body)


def nested(levels: int, opening: bytes, closing: bytes) -> bytes:
    return opening * levels + b"1" + closing * levels


@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}"), (b"[1,", b",2]")])
@pytest.mark.parametrize("padding", [b"", b" " * 2**15], ids=["on the loop", "in a thread"])
def test_the_depth_of_json_is_limited_wherever_it_is_parsed(
    opening: bytes, closing: bytes, padding: bytes
) -> None:
    read(nested(MAX_DEPTH, opening, closing), padding)
    with pytest.raises(WireError, match="Request is missing") as caught:
        read(nested(MAX_DEPTH + 1, opening, closing), padding)
    assert caught.value.type is INCOMPLETE_REQUEST


def test_many_brackets_side_by_side_are_not_deep() -> None:
    body = [{"role": "user", "content": "[[{" * MAX_DEPTH}] * MAX_DEPTH
    assert parse_json(json.dumps(body).encode()) == body


def test_json_is_parsed_as_javascript_parses_it() -> None:
    assert parse_json(b'\xef\xbb\xbf{"a": 1}') == {"a": 1}
    assert parse_json(b'"\xff"') == "\ufffd"
    assert parse_json(b'"\\ud800"') == "\ud800"
    assert parse_json(b"1" * 5000) == float("inf")
    assert parse_json(b'{"a": 1, "a": 2}') == {"a": 2}


def test_a_body_that_middleware_reads_can_be_read_again() -> None:
    async def read_twice() -> tuple[bytes, list[Any]]:
        body, receive = await read_body(receiver([b"a", b"", b"b"], disconnects=True))
        return body, [await receive() for _ in range(4)]

    body, messages = asyncio.run(read_twice())
    assert body == b"ab"
    assert [message.get("body") for message in messages] == [b"a", b"", b"b", None]
    assert [message.get("more_body") for message in messages] == [True, True, False, None]
    assert messages[-1] == {"type": "http.disconnect"}


def test_middleware_reads_little_more_than_the_maximum_size_of_a_body() -> None:
    async def read_large() -> tuple[int, int]:
        part = bytes(2**20)
        body, receive = await read_body(receiver([part] * 40))
        size = 0
        while (message := await receive())["more_body"]:
            size += len(message["body"])
        return len(body), size + len(message["body"])

    assert asyncio.run(read_large()) == (MAX_BODY_BYTES + 2**20, 40 * 2**20)


@pytest.mark.parametrize("parts", [[], [b"a"]], ids=["nothing", "a part"])
def test_a_disconnect_during_the_upload_leaves_no_body(parts: list[bytes]) -> None:
    messages: list[Message] = [
        *({"type": "http.request", "body": part, "more_body": True} for part in parts),
        {"type": "http.disconnect"},
    ]

    async def receive() -> Message:
        return messages.pop(0)

    with pytest.raises(ClientDisconnect):
        asyncio.run(read_body(receive))


def test_arguments_are_passed_to_a_computation() -> None:
    result = asyncio.run(compute(CallContext(is_large=True), json.dumps, [1], indent=None))
    assert result == "[1]"
