"""Runs a model and returns its response, for all endpoints that run models."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Awaitable
from typing import Any, Literal, Protocol, TypeVar
from urllib.parse import quote

from fastapi import Request, Response

from workers_ai_emulator.backends.backend import Backend
from workers_ai_emulator.backends.choice import BACKEND_HEADER
from workers_ai_emulator.engine.errors import DeadlineExceeded
from workers_ai_emulator.engine.types import Chunk, FinishReason, Generation, StartedGeneration
from workers_ai_emulator.models.catalog import ModelSpec
from workers_ai_emulator.routes.services import services_of
from workers_ai_emulator.tasks import text_generation
from workers_ai_emulator.tasks.completion import collect
from workers_ai_emulator.tasks.response_formats.choice import FormatChoice
from workers_ai_emulator.tasks.response_formats.response_format import ResponseFormat
from workers_ai_emulator.tasks.response_formats.usage import UsageDetails
from workers_ai_emulator.tasks.text_generation import TextGenerationRequest
from workers_ai_emulator.wire.body import compute, read_json
from workers_ai_emulator.wire.context import context_of
from workers_ai_emulator.wire.disconnect import on_disconnect, while_connected
from workers_ai_emulator.wire.envelope import to_json
from workers_ai_emulator.wire.errors import (
    NO_SUCH_MODEL,
    REQUEST_ABORTED,
    ContextCheck,
    ErrorType,
    WireError,
    wire_errors,
)
from workers_ai_emulator.wire.responses import EventStream, JsonResponse

_T = TypeVar("_T")


class Parse(Protocol):
    """Converts a model's input to a request. Raises WireError for an invalid input."""

    def __call__(
        self, body: Any, spec: ModelSpec, *, seed: int | None
    ) -> TextGenerationRequest: ...


async def body_of(request: Request) -> Any:
    """Returns the JSON value of the request's body. Raises WireError if the body is not JSON."""
    return await read_json(request.stream(), context_of(request.scope))


def read_options(request: Request, body: Any) -> None:
    """Stores the option `rejectIfBusy` of a request's body in the request's context.

    The options are under the key `options` of the body. For a binding, this is the body around the
    model's input. [developers.cloudflare.com/workers-ai/features/reject-if-busy]
    """
    options = body.get("options") if isinstance(body, dict) else None
    rejects_if_busy = isinstance(options, dict) and options.get("rejectIfBusy") is True
    context_of(request.scope).rejects_if_busy = rejects_if_busy


def model_name(body: Any) -> str:
    """Returns the value of the key `model` in a request body.

    If the key is missing, returns the string `undefined`, which the error message then contains. We
    assume that the service's message contains it too, because JavaScript converts missing values to
    this string.
    """
    name = body.get("model", "undefined") if isinstance(body, dict) else "undefined"
    return name if isinstance(name, str) else to_json(name).decode()


def find_model(request: Request, name: str, unknown: ErrorType = NO_SUCH_MODEL) -> ModelSpec:
    """Returns the served model with this name.

    Raises WireError if the model is retired or not emulated, or, with the type `unknown`, if the
    service has no model with this name.
    """
    return services_of(request).served.find(name, unknown)


async def generate(
    request: Request,
    spec: ModelSpec,
    inputs: Any,
    choose_format: FormatChoice,
    parse: Parse = text_generation.parse,
) -> Response:
    """Runs the model on `inputs`, and returns a JSON response or a stream of events.

    `choose_format`: returns the format of the response to the parsed request. `parse`: converts
    `inputs` to a request.

    Waits at least until the first token is generated. If the generation fails before the first
    token, raises WireError, so that the client receives an error response.
    """
    context = context_of(request.scope)
    context.inputs = inputs
    backends = services_of(request).backends
    backend = backends.choose(request.headers.get(BACKEND_HEADER))
    task_request = await compute(context, parse, inputs, spec, seed=backends.seed)
    response_format = choose_format(spec, task_request)
    with wire_errors(_context_check(spec, task_request, inputs)):
        started = await _start(request, backend, task_request, spec)
        is_stream = task_request.stream and not context.is_stream_replaced
        response = await _respond(request, started, response_format, is_stream=is_stream)
    if not is_stream:
        response.headers.update(UsageDetails.of(spec).headers(started.generation.usage))
    return response


def _context_check(
    spec: ModelSpec, task_request: TextGenerationRequest, inputs: Any
) -> ContextCheck | None:
    """Returns how the service refuses the request if it does not fit the model's context.

    The service estimates one token for every four characters [recorded, 2026]. For glm-5.2, it does
    not seem to count `max_completion_tokens` [inferred from two recorded errors, 2026-08].
    """
    server = _refusing_server(spec)
    if server is None:
        return None
    counts_max_tokens = inputs.get("max_completion_tokens") is None
    return ContextCheck(server, lambda: task_request.num_prompt_characters // 4, counts_max_tokens)


def _refusing_server(spec: ModelSpec) -> Literal["vllm", "sglang"] | None:
    """Returns the server that refuses long requests, with a text that was recorded."""
    if spec.traits.form == "both":
        return "vllm"
    return "sglang" if spec.traits.server == "sglang" else None


async def _start(
    request: Request, backend: Backend, task_request: TextGenerationRequest, spec: ModelSpec
) -> StartedGeneration:
    """Starts the generation, and stores it in the request's context.

    Waits until the model is loaded, and the prompt and the grammar are ready. Raises
    ClientDisconnect if the client disconnects during this wait, and DeadlineExceeded if the
    request's time limit is reached. After either error, the model continues to load, so that later
    requests can use it. The time limit includes this wait and the generation.
    """
    context = context_of(request.scope)
    limit_s = services_of(request).backends.request_timeout_s
    start_s = time.monotonic()
    starting = backend.generate(task_request, spec, context)
    if backend.is_immediate(task_request, spec, context):
        started = await starting
    else:
        try:
            started = await while_connected(starting, request.receive, limit_s=limit_s)
        except TimeoutError as error:
            raise DeadlineExceeded from error
    context.started, context.model = started, spec.name
    if limit_s is not None:
        started.generation.cancel_after(start_s + limit_s - time.monotonic())
    return started


async def _respond(
    request: Request,
    started: StartedGeneration,
    response_format: ResponseFormat,
    *,
    is_stream: bool,
) -> Response:
    """Returns the response to a request whose generation has started.

    If `is_stream` is True, waits only for the first chunk, then returns a stream of events.
    Otherwise, waits for all chunks, then returns a JSON response.
    """
    generation = started.generation
    headers = model_headers(started)
    if is_stream:
        chunks = await _while_connected(request, generation, _after_first(generation))
        events = response_format.events(chunks, generation)
        return EventStream(events, generation.cancel, headers)
    completion = await _while_connected(request, generation, collect(aiter(generation)))
    return JsonResponse(response_format.whole(completion, generation), headers=headers)


def model_headers(started: StartedGeneration) -> dict[str, str]:
    """Returns the headers of every response of a model: the request id, and which model ran."""
    return {
        "cf-ai-req-id": str(uuid.uuid4()),
        "x-emulator-model": quote(started.model_name, errors="replace"),
    }


async def _after_first(generation: Generation) -> AsyncIterator[Chunk]:
    """Waits until the first chunk is generated, and returns an iterator over all chunks.

    Raises errors that occur before the first chunk, so that the client gets an error response.
    The iterator raises errors that occur later. If the response is a stream, such an error cuts the
    stream.
    """
    chunks = aiter(generation)
    first = await anext(chunks)
    if first.finish_reason is FinishReason.CANCELLED:
        raise WireError(REQUEST_ABORTED)

    async def all_chunks() -> AsyncIterator[Chunk]:
        yield first
        async for chunk in chunks:
            yield chunk

    return all_chunks()


async def _while_connected(request: Request, generation: Generation, work: Awaitable[_T]) -> _T:
    """Returns the result of `work`. Cancels the generation if the client disconnects.

    After the cancellation, still waits until `work` ends, so that the generation's token counts are
    complete.
    """
    try:
        async with on_disconnect(request.receive, generation.cancel):
            return await work
    except BaseException:
        generation.cancel()
        raise
