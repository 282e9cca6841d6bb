"""Finds the row of the endpoint table that has the method and the path of a request."""

from __future__ import annotations

import re
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.routing import compile_path
from starlette.types import Scope

from workers_ai_emulator.wire.endpoints import ENDPOINTS, Access, Endpoint

# AI bindings send the model's name, and the version of the class or SDK that sends the request.
MODEL_HEADER = "cf-consn-model-id"
SDK_VERSION_HEADER = "cf-consn-sdk-version"

_PATTERNS = [(endpoint, compile_path(endpoint.path)[0]) for endpoint in ENDPOINTS]
_INFERENCE_PATTERNS = [(endpoint, p) for endpoint, p in _PATTERNS if endpoint.is_inference]
_ACCOUNT_PART = re.compile(r"^(/client/v4/accounts/[^/]+|/v1/[^/]+/[^/]+)")


@dataclass(frozen=True, slots=True)
class InferenceCall:
    """A request that runs a model.

    `path`: the request's path without the prefix that names the account and the gateway.
    `account_id`: None for an AI binding, which does not send its account id. `model`: the model's
    name in the path or in a header, None if only the body contains the name.
    """

    endpoint: Endpoint
    path: str
    account_id: str | None
    model: str | None


def inference_call(scope: Scope) -> InferenceCall | None:
    """Returns the request in this ASGI scope as an inference call, or None if it runs no model."""
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
    """Returns the HTTP methods that the endpoints with this path support, sorted."""
    return sorted({endpoint.method for endpoint, pattern in _PATTERNS if pattern.match(path)})


def _model(endpoint: Endpoint, name: str | None) -> str | None:
    """Returns the model's name from the path parameter `name`, or None if the path names no model.

    In paths of AI Gateway, the name may have the prefix `run/`, which is removed.
    """
    if name is not None and endpoint.access is Access.GATEWAY:
        return name.removeprefix("run/")
    return name
