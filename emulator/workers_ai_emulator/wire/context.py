"""The context of a request: values that its middleware and its route share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.types import Scope

from workers_ai_emulator.engine.types import StartedGeneration
from workers_ai_emulator.wire.calls import InferenceCall
from workers_ai_emulator.wire.errors import WireError
from workers_ai_emulator.wire.faults import Fault
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
    `model`: the name of the requested model (`routes/generation.py`, `routes/batch.py`).
    `started`: the generation, once a backend has started it (`routes/generation.py`).
    `redaction`: replaces the request's credentials in stored texts (`middleware/journal/`).
    `call`: the inference call, if the request is one (`middleware/base.py`).
    `account`: the account whose rules, faults and recordings apply to the request; None if the
    request names no account (`middleware/account.py`, `middleware/base.py`).
    `headers`: the headers of an inference call, with lower-case names (`middleware/base.py`).
    `inputs`: the JSON value of the model's input, before validation (`routes/generation.py`,
    `routes/batch.py`).
    `rejects_if_busy`: whether the request has the option `rejectIfBusy`: it gets an error instead
    of waiting for a slot (`routes/generation.py`).
    `rule`: the number of the script's rule that gave the completion, from 1 on
    (`backends/scripted.py`).
    `recording`: the name of the file whose recording was replayed (`middleware/recordings/`).
    `is_unmatched`: whether no rule of the script applied to the call, or no recording was found
    for it (`backends/scripted.py`, `middleware/recordings/`, `routes/batch.py`).
    `scripted_fault`: the fault in the rule of the script that gave the completion
    (`backends/scripted.py`); `middleware/faults/` applies it to the response.
    `error`: the error that the client receives, if it receives one (`wire/responses.py`).
    """

    needs_token: bool = False
    fault: str | None = None
    is_large: bool = False
    model: str | None = None
    started: StartedGeneration | None = None
    redaction: Redaction | None = None
    call: InferenceCall | None = None
    account: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    inputs: Any = None
    rejects_if_busy: bool = False
    rule: int | None = None
    recording: str | None = None
    is_unmatched: bool = False
    scripted_fault: Fault | None = None
    error: WireError | None = None

    @property
    def is_stream_replaced(self) -> bool:
        """Whether the script's rule has a fault that sends JSON instead of a stream."""
        fault = self.scripted_fault
        return fault is not None and fault.fault == "json-instead-of-stream"

    def forget_run(self) -> None:
        """Resets all fields that a run of a model sets.

        Call it before each step of a universal request, so that nothing of a step that has failed
        is taken for a part of the response.
        """
        self.model = self.started = self.inputs = self.rule = self.recording = None
        self.scripted_fault = self.error = None
        self.rejects_if_busy = self.is_unmatched = False


def set_context(scope: Scope, context: CallContext) -> None:
    """Stores a context in a request's ASGI scope."""
    scope[_KEY] = context


def context_of(scope: Scope) -> CallContext:
    """Returns the context in a request's ASGI scope. Creates the context if it is missing."""
    context: CallContext | None = scope.get(_KEY)
    if context is None:
        context = scope[_KEY] = CallContext()
    return context
