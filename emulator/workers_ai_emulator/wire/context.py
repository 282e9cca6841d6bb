"""The context of a request: values that its middleware and its route share."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.types import Scope

from workers_ai_emulator.engine.types import StartedGeneration
from workers_ai_emulator.wire.calls import InferenceCall
from workers_ai_emulator.wire.errors import WireError
from workers_ai_emulator.wire.redaction import Redaction

_KEY = "workers_ai_emulator.call_context"


@dataclass(slots=True)
class CallContext:
    """Values that the middleware and the route of one request share.

    Each description ends with the module that sets the field, in parentheses.

    `needs_token`: whether the server checks the token even if the client is on this machine. True
    for requests of wrangler 3.20 to 4.35 (`middleware/binding_transports.py`).
    `fault`: the name of the fault that is applied to the response (`middleware/faults/`).
    `is_large`: whether the body is too large to be parsed on the event loop (`wire/body.py`).
    `model`: the name of the requested model (`routes/generation.py`).
    `started`: the generation, once a backend has started it (`routes/generation.py`).
    `redaction`: replaces the request's credentials in stored texts (`middleware/journal/`).
    `call`: the inference call, if the request is one (`middleware/base.py`).
    `error`: the error that the client receives, if it receives one (`wire/responses.py`).
    """

    needs_token: bool = False
    fault: str | None = None
    is_large: bool = False
    model: str | None = None
    started: StartedGeneration | None = None
    redaction: Redaction | None = None
    call: InferenceCall | None = None
    error: WireError | None = None


def context_of(scope: Scope) -> CallContext:
    """Returns the context in a request's ASGI scope. Creates the context if it is missing."""
    context: CallContext | None = scope.get(_KEY)
    if context is None:
        context = scope[_KEY] = CallContext()
    return context
