"""Finds the endpoint of a request, by method and path, in the endpoint table."""

from __future__ import annotations

import re
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.routing import compile_path
from starlette.types import Scope

from workers_ai_emulator.wire.endpoints import ENDPOINTS, GATEWAY_RUN_MODEL, Endpoint

# Headers in requests of AI bindings: the name of the model, and the version of the binding's
# JavaScript code.
MODEL_HEADER = "cf-consn-model-id"
SDK_VERSION_HEADER = "cf-consn-sdk-version"

_PATTERNS = [(endpoint, compile_path(endpoint.path)[0]) for endpoint in ENDPOINTS]
_INFERENCE_PATTERNS = [(endpoint, p) for endpoint, p in _PATTERNS if endpoint.is_inference]
_ACCOUNT_PART = re.compile(
    r"^(/client/v4/accounts/[^/]+|/v1/[^/]+/[^/]+|/ai-gateway/gateways/[^/]+)"
)


@dataclass(frozen=True, slots=True)
class InferenceCall:
    """A request that runs a model.

    `path`: the request's path without account id and gateway id, for example `/ai/run/NAME`.
    `account_id`: the account id in the path, or None for requests of AI bindings.
    `model`: the model's name from the path or a header, or None if only the body names the model.
    """

    endpoint: Endpoint
    path: str
    account_id: str | None
    model: str | None


def inference_call(scope: Scope) -> InferenceCall | None:
    """Returns the `InferenceCall` of an ASGI scope, or None if the request runs no model."""
    if scope["type"] != "http" or scope["method"] != "POST":
        return None
    for endpoint, pattern in _INFERENCE_PATTERNS:
        if match := pattern.match(scope["path"]):
            parts = match.groupdict()
            path = _ACCOUNT_PART.sub("", scope["path"])
            model = _model(endpoint, parts.get("model")) or Headers(scope=scope).get(MODEL_HEADER)
            return InferenceCall(endpoint, path, parts.get("account_id"), model)
    return None


def allowed_methods(path: str) -> list[str]:
    """Returns the HTTP methods of the endpoints with this path, in alphabetical order.

    If several rows of the endpoint table match the path, these are the methods of the first row and
    of the rows with the same path parameters.
    """
    paths = [endpoint.path for endpoint, pattern in _PATTERNS if pattern.match(path)]
    return sorted({endpoint.method for endpoint, _ in _PATTERNS if endpoint.path in paths[:1]})


def _model(endpoint: Endpoint, name: str | None) -> str | None:
    """Returns the model's name in the path parameter `model`, whose value is `name`.

    In paths of AI Gateway, the value may begin with `run/`, which is removed. Returns None if
    `name` is None.
    """
    if name is not None and endpoint in GATEWAY_RUN_MODEL:
        return name.removeprefix("run/")
    return name
