"""State that the middleware and the routes of one request share."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.types import Scope

from workers_ai_emulator.engine.types import StartedGeneration
from workers_ai_emulator.wire.redaction import Redaction

_KEY = "workers_ai_emulator.call_context"


@dataclass(slots=True)
class CallContext:
    """What the layers of one request tell each other. Each field has one writer.

    `needs_token`: a transport of bindings sends its user's token, which is then checked even if
    the client is on this machine (`middleware/binding_transports.py`).
    `fault`: the name of the fault that is applied to the response (`middleware/faults/`).
    `is_large`: the body is so large that parsing it on the event loop would delay other requests
    (`wire/body.py`).
    `model`, `started`: the model that the route found, and the generation that a backend started
    for it (`routes/generation.py`).
    `redaction`: the credentials that the journal found in the request (`middleware/journal/`).
    """

    needs_token: bool = False
    fault: str | None = None
    is_large: bool = False
    model: str | None = None
    started: StartedGeneration | None = None
    redaction: Redaction | None = None


def context_of(scope: Scope) -> CallContext:
    """Returns the context of the request that this ASGI scope belongs to, new for a new request."""
    context: CallContext = scope.setdefault(_KEY, CallContext())
    return context
