"""Reads request bodies: limits their size, decompresses gzip, and parses JSON."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import zlib
from collections.abc import AsyncIterator, Callable
from typing import Any, NoReturn, ParamSpec, TypeVar

from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive

from workers_ai_emulator.json_values import is_too_deep
from workers_ai_emulator.wire.context import CallContext
from workers_ai_emulator.wire.errors import INCOMPLETE_REQUEST, REQUEST_TOO_LARGE, WireError

MAX_BODY_BYTES = 16 * 2**20
GZIP_MAGIC = b"\x1f\x8b"  # the first bytes of gzip data; no JSON text begins with them

# If a body has more bytes than this limit, it is parsed in a thread, because parsing it on the
# event loop would delay other requests.
_LARGE_BODY_BYTES = 2**14
# The same if a body has more lists and objects than this limit: validating each takes 0.1 ms.
_MANY_CONTAINERS = 500
# How many lists and objects may be nested in each other. Python limits recursion, and on the event
# loop it allows less of it than in a thread: without this limit, values that a thread has parsed
# could not be validated or written.
MAX_DEPTH = 256
_NOT_JSON = "body is not valid JSON"
# A JSON integer with more digits than this limit is parsed as infinity, because Python refuses to
# parse very long integers.
_MAX_DIGITS = 400

_T = TypeVar("_T")
_P = ParamSpec("_P")


async def read_json(parts: AsyncIterator[bytes], context: CallContext) -> Any:
    """Reads a request body from `parts`, and returns its JSON value. The body may be gzipped.

    Sets `context.is_large`. Ignores the headers content-type and content-encoding, because some
    clients send wrong values in them. Raises WireError if the body is too large, is empty or is not
    JSON.
    """
    body = bytearray()
    async for part in parts:
        body += part
        if len(body) > MAX_BODY_BYTES:
            raise WireError(REQUEST_TOO_LARGE)
    return await parse_body(bytes(body), context)


async def parse_body(body: bytes, context: CallContext) -> Any:
    """Returns the JSON value of a request body, which may be gzipped.

    Parses a large body in a thread. Sets `context.is_large`. Raises WireError if the body is empty
    or is not JSON.
    """
    context.is_large = _is_large(body)
    if body.startswith(GZIP_MAGIC):
        body = await compute(context, gunzip, body)
        context.is_large |= _is_large(body)
    return await compute(context, parse_json, body)


def _is_large(body: bytes) -> bool:
    return len(body) > _LARGE_BODY_BYTES or body.count(b"[") + body.count(b"{") > _MANY_CONTAINERS


async def read_body(receive: Receive) -> tuple[bytes, Receive]:
    """Returns a request's body, and an ASGI `receive` from which the body can be read again.

    If the body is larger than MAX_BODY_BYTES, returns only the beginning of the body. This
    beginning is longer than MAX_BODY_BYTES, so the caller can see that the body is too large.
    Raises ClientDisconnect if the client disconnects before it has sent the whole body.
    """
    messages: list[Message] = []
    size = 0
    while size <= MAX_BODY_BYTES and (not messages or messages[-1].get("more_body", False)):
        messages.append(await receive())
        if messages[-1]["type"] == "http.disconnect":
            raise ClientDisconnect
        size += len(messages[-1].get("body", b""))
    body = b"".join(message.get("body", b"") for message in messages)
    messages.reverse()

    async def receive_again() -> Message:
        return messages.pop() if messages else await receive()

    return body, receive_again


def gunzip(body: bytes) -> bytes:
    """Returns the decompressed body.

    Raises WireError if the gzip data is damaged or incomplete, or if the decompressed body is
    larger than MAX_BODY_BYTES.
    """
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(body)) as file:
            content = file.read(MAX_BODY_BYTES + 1)
    except (EOFError, OSError, zlib.error) as error:
        raise WireError(INCOMPLETE_REQUEST, "body is not valid gzip") from error
    if len(content) > MAX_BODY_BYTES:
        raise WireError(REQUEST_TOO_LARGE)
    return content


def parse_json(body: bytes) -> Any:
    """Parses the body like JavaScript's `request.json()`, and returns its JSON value, of any type.

    Raises WireError if the body is empty, is not JSON, or is nested deeper than MAX_DEPTH levels.
    We do not know which error the service sends for these bodies.
    """
    text = body.decode("utf-8", "replace").removeprefix("\ufeff")
    if not text.strip():
        raise WireError(INCOMPLETE_REQUEST, "body")
    try:
        value = _DECODER.decode(text)
    except (ValueError, RecursionError) as error:
        raise WireError(INCOMPLETE_REQUEST, _NOT_JSON) from error
    if text.count("[") + text.count("{") > MAX_DEPTH and is_too_deep(value, MAX_DEPTH):
        raise WireError(INCOMPLETE_REQUEST, _NOT_JSON)
    return value


async def compute(
    context: CallContext, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs
) -> _T:
    """Calls `function` and returns its result.

    If the request's body is large, calls `function` in a thread, so that it does not block the
    event loop.
    """
    if context.is_large:
        return await asyncio.to_thread(function, *args, **kwargs)
    return function(*args, **kwargs)


def _parse_int(digits: str) -> int | float:
    return int(digits) if len(digits) <= _MAX_DIGITS else float(digits)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_int=_parse_int, parse_constant=_refuse_constant)
