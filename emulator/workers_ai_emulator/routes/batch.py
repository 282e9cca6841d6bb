"""Batches: `ai/run` with the query `queueRequest=true`, for all endpoints that run models.

    {"requests": [INPUT, …]}  ->  {"status": "queued", "request_id": ID, "model": NAME}
    {"request_id": ID}        ->  {"status": "queued" or "running", …}, later
                                  {"responses": [{"id": 0, "result": …}, …], "usage": …}

[developers.cloudflare.com/workers-ai/features/batch-api]
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from fastapi import Request, Response
from starlette.types import Message, Scope

from workers_ai_emulator.engine.types import Usage
from workers_ai_emulator.middleware.neurons import BINDINGS
from workers_ai_emulator.models.spec import ModelSpec
from workers_ai_emulator.models.validator import SchemaMismatch
from workers_ai_emulator.routes.services import services_of
from workers_ai_emulator.runtime.batches import Batch, BatchResult, BatchStatus
from workers_ai_emulator.tasks.response_formats.response_format import Json, Wrap
from workers_ai_emulator.tasks.response_formats.usage import counts
from workers_ai_emulator.wire.body import compute
from workers_ai_emulator.wire.context import CallContext, context_of, set_context
from workers_ai_emulator.wire.envelope import Written, to_json
from workers_ai_emulator.wire.errors import (
    BAD_INPUT,
    OUT_OF_CAPACITY,
    REFUSED_BY_ENGINE,
    REQUEST_TOO_LARGE,
    WireError,
)
from workers_ai_emulator.wire.responses import JsonResponse

MAX_BYTES = 10_000_000  # "under 10 MB" [developers.cloudflare.com/workers-ai/features/batch-api]
MAX_REQUESTS = 10_000

# The keys of an input that is not a batch.
_SINGLE_KEYS = {"prompt", "messages", "input", "text", "query", "contexts", "queries", "documents"}

# Runs a model on one input, like `run.run_single`.
RunSingle = Callable[[Request, ModelSpec, Any, Wrap], Awaitable[Response]]


def is_batch_call(spec: ModelSpec, inputs: Any, *, is_queued: bool) -> bool:
    """Returns whether a call queues a batch or asks for the results of one.

    `is_queued`: whether the call has the option `queueRequest`. Bindings ask for results without
    it. [developers.cloudflare.com/workers-ai/features/batch-api/workers-binding]
    """
    if is_queued:
        return True
    if not isinstance(inputs, dict) or inputs.keys() & _SINGLE_KEYS:
        return False
    return "requests" in inputs or ("request_id" in inputs and supports_batches(spec))


def supports_batches(spec: ModelSpec) -> bool:
    """Returns whether the service runs batches with this model.

    The model's card says so. The card of bge-m3 does not, but its schema has `requests`, and it is
    the model in the examples of the documentation.
    """
    if spec.embedding is not None and _has_requests(spec.schema["input"]):
        return True
    properties = spec.card["properties"]
    is_named = {"property_id": "async_queue", "value": "true"} in properties
    return is_named and _has_requests(spec.schema["input"])


async def run_batch_call(
    request: Request,
    spec: ModelSpec,
    inputs: Any,
    wrap: Wrap,
    run_single: RunSingle,
    *,
    is_queued: bool,
) -> Response:
    """Queues the batch in `inputs`, or returns the status or the results of a batch.

    `wrap`: writes the body of the response. `run_single`: runs one request of the batch.
    `is_queued`: as for `is_batch_call`. Raises WireError if the input is invalid or has no
    `queueRequest`, if the model does not support batches, if the batch is unknown, or if it does
    not fit into the memory for batches.
    """
    context = context_of(request.scope)
    context.model, context.inputs = spec.name, inputs
    if not supports_batches(spec):
        await compute(context, _validate, spec, inputs)
        raise WireError(REFUSED_BY_ENGINE, _NO_QUEUE)
    match inputs:
        case {"requests": [_, *_] as requests}:
            if not is_queued:
                raise WireError(BAD_INPUT, _NOT_QUEUED)
            batch = await _submit(request, spec, inputs, requests, run_single)
        case {"request_id": str(id)}:
            batch = _find(request, spec, id)
        case _:
            raise WireError(BAD_INPUT, _NO_BATCH)
    return await _respond(batch, wrap, context)


# Two public programs look for this text. The status of the response, 400, is inferred.
_NO_QUEUE = "This model does not support request queuing"
_NOT_QUEUED = "a list of requests needs queueRequest=true: add it to the query or to the options"
_NO_BATCH = (
    'queueRequest takes {"requests": [...]} with at least one request, or {"request_id": "..."}'
)


async def _submit(
    request: Request, spec: ModelSpec, inputs: Json, requests: list[Any], run_single: RunSingle
) -> Batch:
    """Queues a batch, and returns it."""
    context = context_of(request.scope)
    num_bytes = await compute(context, _validate, spec, inputs)
    if num_bytes > MAX_BYTES:
        raise WireError(REQUEST_TOO_LARGE, hint=f"a batch has at most {MAX_BYTES} bytes")
    if len(requests) > MAX_REQUESTS:
        what = f"a batch takes at most {MAX_REQUESTS} requests, not {len(requests)}"
        raise WireError(BAD_INPUT, what)
    batch = Batch(
        context.account,
        spec.name,
        requests,
        [each.get("external_reference") for each in requests],
        partial(_run_request, _Caller.of(request), spec, run_single),
        num_bytes=num_bytes,
    )
    services_of(request).batches.submit(batch)
    return batch


def _validate(spec: ModelSpec, inputs: Any) -> int:
    """Validates the input of a batch, and returns its approximate size in bytes.

    Raises WireError if it does not match the model's schema.
    """
    try:
        spec.validator.validate(inputs)
    except SchemaMismatch as error:
        raise WireError(BAD_INPUT, error) from error
    if isinstance(inputs, dict) and isinstance(inputs.get("requests"), list):
        for index, each in enumerate(inputs["requests"]):
            if not isinstance(each, dict):
                raise WireError(BAD_INPUT, f"requests[{index}] is not an object")
    return len(to_json(inputs))


def _find(request: Request, spec: ModelSpec, id: str) -> Batch:
    account = context_of(request.scope).account
    batch = services_of(request).batches.find(account, spec.name, id)
    if batch is None:
        raise WireError(
            BAD_INPUT,
            f"no batch of model {spec.name} has the request_id {id[:100]}: the id is wrong, the "
            "batch is another account's, or its results are no longer stored",
        )
    return batch


@dataclass(frozen=True, slots=True)
class _Caller:
    """What the requests of a batch have in common with the HTTP request that has queued it.

    Does not refer to that HTTP request, whose body would otherwise stay in memory.
    """

    scope: Scope
    context: CallContext

    @classmethod
    def of(cls, request: Request) -> _Caller:
        keys = ("type", "app", "method", "path", "headers")
        scope = {key: request.scope[key] for key in keys} | {"query_string": b""}
        return cls(scope, replace(context_of(request.scope), inputs=None, rejects_if_busy=False))

    def new_request(self) -> Request:
        """Returns a request with the caller's headers and account, which never disconnects."""
        scope = dict(self.scope)
        set_context(scope, replace(self.context))
        return Request(scope, _never)


async def _never() -> Message:
    await asyncio.Event().wait()
    raise AssertionError


async def _run_request(
    caller: _Caller, spec: ModelSpec, run_single: RunSingle, inputs: Any
) -> BatchResult:
    """Runs one request of a batch, and returns its result or its error."""
    request = caller.new_request()
    services, context = services_of(request), context_of(request.scope)
    account = context.account or BINDINGS
    captured = _CapturedResult()
    if inputs.get("stream") is True:  # a batch contains no streams
        inputs = {**inputs, "stream": False}
    try:
        services.neurons.check(account)
        await run_single(request, spec, inputs, captured.wrap)
    except WireError as error:
        # A script may send the error of a full queue: this is the result, and is not tried again.
        is_refused = error.type is OUT_OF_CAPACITY and context.scripted_fault is None
        return BatchResult(None, _usage(context), error, is_refused, context.is_unmatched)
    finally:
        if context.started is not None:
            services.neurons.use(account, services.price_of(spec.name).of(_usage(context)))
    return BatchResult(captured.json, _usage(context), is_unmatched=context.is_unmatched)


class _CapturedResult:
    """Stores the JSON of the result that a route writes, without an envelope."""

    def __init__(self) -> None:
        self.json = b"{}"

    def wrap(self, result: Json) -> bytes:
        self.json = to_json(result)
        return b""


def _usage(context: CallContext) -> Usage:
    return context.started.generation.usage if context.started else Usage(0, 0)


async def _respond(batch: Batch, wrap: Wrap, context: CallContext) -> Response:
    """Returns the status of the batch, or its results after its end."""
    if batch.status is not BatchStatus.ENDED:
        status = {"status": batch.status.value, "request_id": batch.id, "model": batch.model}
        return JsonResponse(wrap(status))
    context.is_unmatched = any(result.is_unmatched for result in batch.results if result)
    # Writes the JSON in a thread, because that takes long for many results.
    body = await asyncio.to_thread(lambda: wrap(_results(batch)))
    batch.is_retrieved = True
    return JsonResponse(body)


def _results(batch: Batch) -> Json:
    results = [result for result in batch.results if result is not None]
    usage = Usage(
        sum(result.usage.num_prompt_tokens for result in results),
        sum(result.usage.num_completion_tokens for result in results),
    )
    responses = [
        _response(index, result, reference)
        for index, (result, reference) in enumerate(zip(results, batch.references, strict=True))
    ]
    return {"responses": responses, "usage": counts(usage)}


def _response(index: int, result: BatchResult, reference: Any) -> Json:
    response = {
        "id": index,
        "result": {} if result.result is None else Written(result.result),
        "success": result.error is None,
        "external_reference": reference,
    }
    if (error := result.error) is not None:
        response["errors"] = [{"message": error.message, "code": error.type.code}]
    return response


def _has_requests(schema: Json) -> bool:
    """Returns whether an input schema has a branch with the key `requests`."""
    branches = (*schema.get("oneOf", ()), *schema.get("anyOf", ()))
    return "requests" in schema.get("properties", {}) or any(map(_has_requests, branches))
