"""What a Worker's AI binding sends, in all of its protocols; the doors lead it here.

A binding reads an answer without an envelope, and a bare error [workerd, ai-api.ts].
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from workers_ai_emulator.errors import IncompleteRequest, InvalidData, NoSuchModel
from workers_ai_emulator.models.catalog import ModelSpec
from workers_ai_emulator.routes import gateway, models, run
from workers_ai_emulator.routes.access import before, check_binding
from workers_ai_emulator.routes.generation import find_model, generate, read_json
from workers_ai_emulator.tasks import tensors
from workers_ai_emulator.tasks.response_formats import BareFormat, GzipFormat, TensorFormat
from workers_ai_emulator.wire.envelope import JsonResponse, success

_MODEL_HEADER = "cf-consn-model-id"
_ANY_ACCOUNT = "0" * 32  # a binding does not say whose it is

router = APIRouter(dependencies=[before(check_binding)])
router.add_api_route("/ai-api/models/search", models.search_models)


@router.post("/run")
async def run_model(request: Request) -> Response:
    """`env.AI.run()`: version 3, the binding itself; 2, SDK 1.1.0; none, the tensors of 1.0."""
    spec = _model(request)
    if "userInputs" in request.query_params:  # the body is audio, or an image
        raise InvalidData(request.headers.get("content-type", "undefined"))
    body = await read_json(request)
    version = request.query_params.get("version")
    if version is None:
        return await _run_tensors(request, spec, body)
    if not isinstance(body, dict) or "inputs" not in body:
        raise IncompleteRequest("inputs")
    answer = GzipFormat() if version == "2" else BareFormat()
    return await run.run(request, spec, body["inputs"], answer, is_queued=_is_queued(body))


@router.post("/ai-gateway/run")
async def run_model_via_gateway(request: Request) -> Response:
    """`env.AI.run()` with the option `gateway`."""
    return gateway.logged(await run_model(request))


@router.post("/ai-gateway/universal/run/{gateway_id}")
async def run_universal(request: Request) -> Response:
    """`env.AI.gateway(…).run()`."""
    return await gateway.universal(request)


@router.get("/ai-gateway/gateways/{gateway_id}/url/{provider}")
async def gateway_url(request: Request, gateway_id: str, provider: str) -> Response:
    """`env.AI.gateway(…).getUrl()`: this server's paths of AI Gateway, for any client."""
    host, port = request.scope["server"]  # where this request came in; its Host is the service's
    provider = "" if provider == "universal" else provider
    url = f"http://{host}:{port}{gateway.PREFIX}{_ANY_ACCOUNT}/{gateway_id}/{provider}"
    return JsonResponse(success({"url": url}))


async def _run_tensors(request: Request, spec: ModelSpec, body: Any) -> Response:
    call = tensors.read(body)
    answer = TensorFormat(call.prompt if call.has_echo else "")
    return await generate(request, spec, call.inputs, answer, is_flattened=True)


def _model(request: Request) -> ModelSpec:
    """The model that the binding names, perhaps behind a prefix. Raises what it is refused with."""
    name = request.headers.get(_MODEL_HEADER)
    if name is None:
        raise IncompleteRequest(_MODEL_HEADER)
    try:
        return find_model(request, name)
    except NoSuchModel:
        return find_model(request, name.rpartition(":")[2])


def _is_queued(body: dict[str, Any]) -> bool:
    options = body.get("options")
    return isinstance(options, dict) and options.get("queueRequest") is True
