"""Matches requests against the endpoint table, by method and path alone."""

from __future__ import annotations

import re
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.routing import compile_path
from starlette.types import Scope

from workers_ai_emulator.wire.endpoints import ENDPOINTS, Access, Endpoint

_PATTERNS = [(endpoint, compile_path(endpoint.path)[0]) for endpoint in ENDPOINTS]
_INFERENCE_PATTERNS = [(endpoint, p) for endpoint, p in _PATTERNS if endpoint.is_inference]
_ACCOUNT_PART = re.compile(r"^(/client/v4/accounts/[^/]+|/v1/[^/]+/[^/]+)")


@dataclass(frozen=True, slots=True)
class InferenceCall:
    """A request that runs a model.

    `path` lacks the account and the gateway. `account_id` is None for a binding, which does not
    send one; `model` is None if only the body names the model.
    """

    endpoint: Endpoint
    path: str
    account_id: str | None
    model: str | None


def inference_call(scope: Scope) -> InferenceCall | None:
    """Returns the call that an ASGI scope begins, or None for any other request."""
    if scope["type"] != "http" or scope["method"] != "POST":
        return None
    for endpoint, pattern in _INFERENCE_PATTERNS:
        if match := pattern.match(scope["path"]):
            parts = match.groupdict()
            path = _ACCOUNT_PART.sub("", scope["path"])
            model = _model(endpoint, parts.get("model")) or _model_header(scope)
            return InferenceCall(endpoint, path, parts.get("account_id"), model)
    return None


def allowed_methods(path: str) -> list[str]:
    """Returns the methods of the endpoints that have this path."""
    return sorted({endpoint.method for endpoint, pattern in _PATTERNS if pattern.match(path)})


def _model(endpoint: Endpoint, name: str | None) -> str | None:
    """AI Gateway accepts `run/` before the model's name."""
    if name is not None and endpoint.access is Access.GATEWAY:
        return name.removeprefix("run/")
    return name


def _model_header(scope: Scope) -> str | None:
    """Returns the header in which a binding names the model."""
    return Headers(scope=scope).get("cf-consn-model-id")
