"""The context of a request: state that its middleware and its route share."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.types import Scope

from workers_ai_emulator.engine.types import StartedGeneration
from workers_ai_emulator.wire.redaction import Redaction

_KEY = "workers_ai_emulator.call_context"


@dataclass(slots=True)
class CallContext:
    """State that the middleware and the route of one request share.

    Each field is set by a single module, which is named in parentheses.

    `needs_token`: the token is checked even if the client is on this machine, because the request
    came from wrangler 3.20 to 4.35, which sends its user's token
    (`middleware/binding_transports.py`).
    `fault`: the name of the fault that is applied to the response (`middleware/faults/`).
    `is_large`: the body is so large that parsing it on the event loop would delay other requests
    (`wire/body.py`).
    `model`, `started`: the name of the requested model, and the generation that a backend started
    with it (`routes/generation.py`).
    `redaction`: the credentials that the journal found in the request (`middleware/journal/`).
    """

    needs_token: bool = False
    fault: str | None = None
    is_large: bool = False
    model: str | None = None
    started: StartedGeneration | None = None
    redaction: Redaction | None = None


def context_of(scope: Scope) -> CallContext:
    """Returns the context in a request's ASGI scope. Creates the context if there is none yet."""
    context: CallContext = scope.setdefault(_KEY, CallContext())
    return context
