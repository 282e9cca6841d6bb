"""The API's routes: what a client of Workers AI calls."""

from __future__ import annotations

import asyncio
import logging
import re
import uuid
from collections.abc import AsyncIterator, Awaitable
from typing import TypeVar

from fastapi import APIRouter, Request, Response

from emulator.engine.types import Chunk, FinishReason
from emulator.engine.worker import Generation
from emulator.engines import Engines, LoadedModel
from emulator.envelope import EventStream, JsonAnswer, success
from emulator.errors import (
    InvalidAccount,
    NoRoute,
    NoRouteInAccount,
    RequestAborted,
    RequestTooLarge,
)
from emulator.tasks import text_generation

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 16 * 2**20

_ACCOUNT_ID = re.compile(r"[0-9a-f]{32}")
_ACCOUNT_PATH = re.compile(r"/client/v4(?P<path>/accounts/(?P<id>[^/]+)(/.*)?)", re.DOTALL)
_T = TypeVar("_T")

router = APIRouter()


@router.post("/client/v4/accounts/{account_id}/ai/run/{model:path}")
async def run(request: Request, account_id: str, model: str) -> Response:
    """Run a model [developers.cloudflare.com/api/resources/ai/methods/run]."""
    if not _ACCOUNT_ID.fullmatch(account_id):
        log.warning("account id %r: it takes 32 digits of 0-9 and a-f, any", account_id)
        raise InvalidAccount(request.scope["path"])
    request.app.state.authorization.check(request.headers)
    request.state.request_id = str(uuid.uuid4())
    engines: Engines = request.app.state.engines
    spec = engines.spec(model)
    body = text_generation.parse_json(await _read(request))
    task_request = text_generation.parse(body, spec)
    loaded = await engines.get(spec)
    generation = await text_generation.start(task_request, loaded)
    request.state.generation = generation
    chunks = await _while_connected(request, generation, _after_first(generation))
    headers = _headers(request, loaded)
    if task_request.stream:
        return EventStream(text_generation.frames(chunks, generation), generation, headers)
    answer = text_generation.result(chunks, generation)
    return JsonAnswer(success(await _while_connected(request, generation, answer)), headers=headers)


def no_route(path: str) -> NoRoute:
    """The error for a path that nothing serves, which depends on the account id in it."""
    account = _ACCOUNT_PATH.fullmatch(path)
    if account and not _ACCOUNT_ID.fullmatch(account["id"]):
        return NoRouteInAccount(account["path"])
    return NoRoute()


async def _read(request: Request) -> bytes:
    """The body. Raises RequestTooLarge without reading on."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY_BYTES:
            raise RequestTooLarge
    return bytes(body)


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
    while (await request.receive())["type"] != "http.disconnect":
        pass
    generation.cancel()


def _headers(request: Request, model: LoadedModel) -> dict[str, str]:
    return {"cf-ai-req-id": request.state.request_id, "x-emulator-model": model.weights.name}
