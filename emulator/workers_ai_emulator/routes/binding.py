"""The routes that a Worker's AI binding `env.AI` calls, for all versions of its protocol.

Miniflare and wrangler 3.20 to 4.35 send a binding's request inside another request.
`middleware/binding_transports.py` extracts the binding's request before these routes handle it.
Errors and the results of `env.AI.run()` have no envelope, because bindings expect none [workerd,
ai-api.ts].
"""

from __future__ import annotations

from functools import partial
from typing import Any

from fastapi import Request, Response

from workers_ai_emulator.models.catalog import ModelSpec
from workers_ai_emulator.routes import gateway, run
from workers_ai_emulator.routes.gateway_cache import CacheOptions
from workers_ai_emulator.routes.gateway_response import respond
from workers_ai_emulator.routes.generation import body_of, find_model, generate, read_options
from workers_ai_emulator.routes.router import EndpointRouter
from workers_ai_emulator.routes.services import services_of
from workers_ai_emulator.tasks import tensors, text_generation
from workers_ai_emulator.tasks.response_formats.choice import gzipped, tensor_format
from workers_ai_emulator.tasks.response_formats.tensors import embeddings_tensor
from workers_ai_emulator.wire import endpoints
from workers_ai_emulator.wire.calls import MODEL_HEADER, SDK_VERSION_HEADER
from workers_ai_emulator.wire.envelope import to_json
from workers_ai_emulator.wire.errors import (
    INCOMPLETE_REQUEST,
    INVALID_DATA,
    NOT_EMULATED,
    WireError,
)

_AUTORAG_METHODS = {"rags": ".list()", "search": ".search()", "ai-search": ".aiSearch()"}

router = EndpointRouter()


@router.handles(endpoints.BINDING_RUN)
async def run_model(request: Request) -> Response:
    """Runs a model for `env.AI.run()`.

    The query parameter `version` selects the protocol:

    * 3: workerd's own binding
    * 2: the SDK `@cloudflare/ai` 1.1, which expects gzip, or workerd's binding of early 2024, which
      expects JSON
    * missing: the SDK `@cloudflare/ai` 1.0, which sends its inputs as tensors
    """
    spec = _model(request)
    return await _run(request, spec, await _body(request))


@router.handles(endpoints.BINDING_GATEWAY_RUN)
async def run_model_via_gateway(request: Request) -> Response:
    spec = _model(request)
    body = await _body(request)
    options = body.get("options") if isinstance(body, dict) else None
    is_batch = _is_batch_call(request, spec, body)
    cache = CacheOptions() if is_batch else CacheOptions.of(request.headers, options)
    return await respond(
        request, body, cache, lambda: _run(request, spec, body), endpoint=_gateway_id(options)
    )


@router.handles(endpoints.BINDING_GATEWAY_UNIVERSAL)
async def run_universal(request: Request) -> Response:
    return await gateway.universal(request)


@router.handles(endpoints.BINDING_WEBSOCKET)
async def run_with_websocket(request: Request) -> Response:
    raise WireError(NOT_EMULATED, "env.AI.run() with the option websocket")


@router.handles(endpoints.BINDING_GET_LOG)
async def get_log(request: Request) -> Response:
    raise WireError(NOT_EMULATED, "env.AI.gateway().getLog()")


@router.handles(endpoints.BINDING_PATCH_LOG)
async def patch_log(request: Request) -> Response:
    raise WireError(NOT_EMULATED, "env.AI.gateway().patchLog()")


@router.handles(endpoints.BINDING_TO_MARKDOWN)
@router.handles(endpoints.BINDING_MARKDOWN_FORMATS)
async def to_markdown(request: Request) -> Response:
    raise WireError(NOT_EMULATED, "env.AI.toMarkdown()")


@router.handles(endpoints.BINDING_AUTORAG)
@router.handles(endpoints.BINDING_AUTORAG_LIST)
async def autorag(request: Request) -> Response:
    operation = request.path_params["operation"]
    method = _AUTORAG_METHODS.get(operation.rpartition("/")[2], "")
    raise WireError(NOT_EMULATED, f"env.AI.autorag(){method}")


async def _body(request: Request) -> Any:
    """Returns the body of a request of `env.AI.run()`. Raises WireError if it is not JSON."""
    # If the query has the parameter `userInputs`, the body is audio or an image, not JSON.
    if "userInputs" in request.query_params:
        raise WireError(INVALID_DATA, request.headers.get("content-type", "undefined"))
    body = await body_of(request)
    read_options(request, body)
    return body


async def _run(request: Request, spec: ModelSpec, body: Any) -> Response:
    version = request.query_params.get("version")
    if version is None:
        return await _run_tensors(request, spec, body)
    if not isinstance(body, dict) or "inputs" not in body:
        raise WireError(INCOMPLETE_REQUEST, "inputs")
    is_workerd = request.headers.get(SDK_VERSION_HEADER, "").startswith("2.")
    wrap = gzipped if version == "2" and not is_workerd else to_json
    return await run.run(request, spec, body["inputs"], wrap, is_queued=_is_queued(body))


async def _run_tensors(request: Request, spec: ModelSpec, body: Any) -> Response:
    if spec.embedding is not None:
        return await run.run_single(request, spec, tensors.parse_texts(body), embeddings_tensor)
    call = tensors.parse(body)
    choose_format = tensor_format(call.prompt if call.has_echo else "")
    parse = partial(text_generation.parse, is_flattened=True)
    return await generate(request, spec, call.inputs, choose_format, parse)


def _model(request: Request) -> ModelSpec:
    """Returns the model that a binding's request names in the header `cf-consn-model-id`.

    The name may have a prefix, such as `workers-ai:`. Raises WireError if the header is missing, or
    if the emulator serves no model with this name.
    """
    name = request.headers.get(MODEL_HEADER)
    if name is None:
        raise WireError(INCOMPLETE_REQUEST, MODEL_HEADER)
    is_served = name in services_of(request).catalog
    return find_model(request, name if is_served else name.rpartition(":")[2])


def _is_batch_call(request: Request, spec: ModelSpec, body: Any) -> bool:
    if not isinstance(body, dict) or "inputs" not in body:
        return False
    return run.is_batch_call(request, spec, body["inputs"], is_queued=_is_queued(body))


def _gateway_id(options: Any) -> Any:
    """Returns the id of the gateway in the options of a binding, or None."""
    gateway_options = options.get("gateway") if isinstance(options, dict) else None
    return gateway_options.get("id") if isinstance(gateway_options, dict) else None


def _is_queued(body: dict[str, Any]) -> bool:
    options = body.get("options")
    return isinstance(options, dict) and options.get("queueRequest") is True
