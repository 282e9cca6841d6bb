"""From a request's body to its answer, for every route that generates text."""

from __future__ import annotations

import asyncio
import uuid
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, ParamSpec, TypeVar
from urllib.parse import quote

from fastapi import Request, Response
from starlette.requests import ClientDisconnect

from workers_ai_emulator.backends.backend import StartedGeneration
from workers_ai_emulator.backends.choice import BACKEND_HEADER, Backends
from workers_ai_emulator.engine.types import Chunk, FinishReason, Generation
from workers_ai_emulator.errors import (
    IncompleteRequest,
    RequestAborted,
    RequestTimeout,
    RequestTooLarge,
)
from workers_ai_emulator.models.catalog import ModelSpec
from workers_ai_emulator.runtime.model_manager import ModelManager
from workers_ai_emulator.tasks import text_generation
from workers_ai_emulator.tasks.response_formats import Answer
from workers_ai_emulator.wire.calls import until_gone
from workers_ai_emulator.wire.envelope import EventStream, JsonResponse, to_json

MAX_BODY_BYTES = 16 * 2**20
GZIP_MAGIC = b"\x1f\x8b"  # no JSON begins so

_LONG_BODY_BYTES = 2**14  # a longer one takes long enough for others to notice

_T = TypeVar("_T")
_P = ParamSpec("_P")


async def read_json(request: Request) -> Any:
    """The body, whatever its content type and encoding, which some clients get wrong.

    Raises RequestTooLarge or IncompleteRequest.
    """
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY_BYTES:
            raise RequestTooLarge
    request.state.is_large = len(body) > _LONG_BODY_BYTES
    if body.startswith(GZIP_MAGIC):
        body = bytearray(await compute(request, gunzip, bytes(body)))
        request.state.is_large |= len(body) > _LONG_BODY_BYTES
    return await compute(request, text_generation.parse_json, bytes(body))


def model_name(body: Any) -> str:
    """The model that a body names; `undefined` where it names none, as JavaScript prints that."""
    name = body.get("model", "undefined") if isinstance(body, dict) else "undefined"
    return name if isinstance(name, str) else to_json(name).decode()


def find_model(request: Request, name: str) -> ModelSpec:
    """The model of this name. Raises NoSuchModel."""
    engines: ModelManager = request.app.state.engines
    return engines.spec(name)


async def generate(
    request: Request,
    spec: ModelSpec,
    inputs: Any,
    answer: Answer,
    *,
    is_flattened: bool = False,
) -> Response:
    """Run the model on these inputs, and answer whole or as a stream.

    Raises what the service refuses with, all of it before the first byte of an answer.
    """
    backends: Backends = request.app.state.backends
    backend = backends.choose(request.headers.get(BACKEND_HEADER))
    task_request = await compute(
        request,
        text_generation.parse,
        inputs,
        spec,
        seed=backends.seed,
        is_flattened=is_flattened,
    )
    starting = backend.generate(task_request, spec, is_large=request.state.is_large)
    if backend.is_immediate(spec):
        started = await starting
    else:
        started = await _while_starting(request, starting, backends.request_timeout_s)
    request.state.started = started
    request.state.model = spec.name
    generation = started.generation
    if backends.request_timeout_s is not None:
        generation.cancel_after(backends.request_timeout_s)
    chunks = await _while_connected(request, generation, _after_first(generation))
    headers = {"cf-ai-req-id": str(uuid.uuid4()), "x-emulator-model": quote(started.model_name)}
    if task_request.stream:
        return EventStream(answer.frames(chunks, generation), generation, headers)
    text = await _while_connected(request, generation, text_generation.join(chunks))
    return JsonResponse(answer.whole(text, generation), headers=headers)


def gunzip(body: bytes) -> bytes:
    """A body unpacked.

    Raises RequestTooLarge, or IncompleteRequest for what is cut off or damaged.
    """
    unpacking = zlib.decompressobj(zlib.MAX_WBITS | 16)
    try:
        unpacked = unpacking.decompress(body, MAX_BODY_BYTES + 1)
    except zlib.error as error:
        raise IncompleteRequest("body is not valid gzip") from error
    if len(unpacked) > MAX_BODY_BYTES:
        raise RequestTooLarge
    if not unpacking.eof:
        raise IncompleteRequest("body is not valid gzip")
    return unpacked


async def compute(
    request: Request, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs
) -> _T:
    """The function's result; computed beside the event loop where others would notice it."""
    if request.state.is_large:
        return await asyncio.to_thread(function, *args, **kwargs)
    return function(*args, **kwargs)


async def _while_starting(
    request: Request, starting: Coroutine[Any, Any, StartedGeneration], limit_s: float | None
) -> StartedGeneration:
    """What starts, unless the time is up first, or the client leaves.

    Raises RequestTimeout or ClientDisconnect; a model that is being loaded goes on for others.
    """
    start = asyncio.create_task(starting)
    leaving = asyncio.create_task(until_gone(request.receive))
    try:
        done, _ = await asyncio.wait(
            {start, leaving}, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED
        )
    finally:
        leaving.cancel()
        if not start.done():
            start.cancel()
    if not done:
        raise RequestTimeout
    if start not in done:
        raise ClientDisconnect
    return start.result()


async def _after_first(generation: Generation) -> AsyncIterator[Chunk]:
    """All chunks, once the first is there: until then an error is an ordinary answer."""
    chunks = aiter(generation)
    first = await anext(chunks)
    if first.finish_reason is FinishReason.CANCELLED:
        raise RequestAborted

    async def all_chunks() -> AsyncIterator[Chunk]:
        yield first
        async for chunk in chunks:
            yield chunk

    return all_chunks()


async def _while_connected(request: Request, generation: Generation, work: Awaitable[_T]) -> _T:
    """The work's result; the generation is cancelled if the client leaves, or the work fails."""
    watch = asyncio.create_task(_cancel_on_disconnect(request, generation))
    try:
        return await work
    except BaseException:
        generation.cancel()
        raise
    finally:
        watch.cancel()


async def _cancel_on_disconnect(request: Request, generation: Generation) -> None:
    await until_gone(request.receive)
    generation.cancel()
