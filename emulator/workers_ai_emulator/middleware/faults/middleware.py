"""Faults on demand: what the service was seen to do wrong, as often and where the user says.

A fault comes before everything else: authorization, validation, the model.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from workers_ai_emulator.errors import (
    AccountLimited,
    AiError,
    AuthenticationFailed,
    DailyLimit,
    GatewayUnauthorized,
    IncompleteRequest,
    InternalError,
    OutOfCapacity,
    RateLimited,
    RequestAborted,
    RequestTimeout,
    RequestTooLarge,
    Retired,
    WireError,
)
from workers_ai_emulator.middleware.faults.rules import (
    BREAKS,
    ERRORS,
    FAULT_HEADER,
    Fault,
    FaultRules,
    Subject,
    parse_wish,
    wish,
)
from workers_ai_emulator.middleware.faults.streams import BreakingStream, ending
from workers_ai_emulator.routes.gateway import PREFIX as GATEWAY_PREFIX
from workers_ai_emulator.routes.generation import GZIP_MAGIC, MAX_BODY_BYTES, gunzip
from workers_ai_emulator.tasks.text_generation import parse_json
from workers_ai_emulator.wire.calls import Call, call_of, read_body, until_gone
from workers_ai_emulator.wire.envelope import to_json
from workers_ai_emulator.wire.error_response import error_response

_ERRORS: dict[str, Callable[[], AiError]] = {
    "capacity": OutOfCapacity,
    "rate-limit": RateLimited,
    "daily-limit": DailyLimit,
    "account-limited": AccountLimited,
    "timeout": RequestTimeout,
    "aborted": RequestAborted,
    "internal": InternalError,
}
# What the service calls a model that was another's alias [recorded].
_RETIRED_AS = {"@cf/meta/llama-2-7b-chat-int8": "@cf/meta/llama-3-8b-instruct-awq"}
_NUM_ENDS = {"no-done": 0, "double-done": 2}


class FaultMiddleware:
    """An ASGI application around another: gives calls the faults that they or the rules choose."""

    def __init__(self, app: ASGIApp, rules: FaultRules) -> None:
        self._app = app
        self._rules = rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        call = call_of(scope)
        wanted = None if call is None else wish(Headers(scope=scope))
        if call is None or (wanted is None and len(self._rules) == 0):
            await self._app(scope, receive, send)
            return
        body, receive_again = await read_body(receive, MAX_BODY_BYTES)
        if len(body) > MAX_BODY_BYTES:  # the application refuses it
            await self._app(scope, receive_again, send)
            return
        request = _Request(call, body, receive, receive_again)
        try:
            fault = self._choose(wanted, request.subject)
        except IncompleteRequest as error:
            await error_response(scope["path"], error)(scope, receive_again, send)
            return
        if fault is None:
            await self._app(scope, receive_again, send)
        else:
            scope["state"]["fault"] = fault.fault
            await self._strike(fault, request, scope, _marked(send, fault.fault))

    def _choose(self, wanted: str | None, subject: Subject) -> Fault | None:
        """What the call wants goes before the rules. Raises IncompleteRequest if there is no such.

        A stream's fault is nothing to a call that wants it and asks for no stream.
        """
        if wanted is None:
            return self._rules.choose(subject)
        fault = parse_wish(wanted)
        return fault if fault.can_befall(subject) else None

    async def _strike(self, fault: Fault, request: _Request, scope: Scope, send: Send) -> None:
        name = fault.fault
        if name in ERRORS:
            error = _error(name, request.subject.model, scope["path"])
            await error_response(scope["path"], error)(scope, request.receive, send)
        elif name in BREAKS:
            await self._break(fault, request, scope, send)
        elif name in _NUM_ENDS:
            await self._app(scope, request.receive, ending(send, _NUM_ENDS[name]))
        elif name == "json-instead-of-stream":
            await self._app(scope, request.receive_without_stream(), send)
        elif await self._rest(request.receive_rest, fault.seconds):  # slow-first-token
            await self._app(scope, request.receive, send)

    async def _break(self, fault: Fault, request: _Request, scope: Scope, send: Send) -> None:
        """Send the beginning of a stream. Since it has no end, uvicorn cuts the connection."""
        stream = BreakingStream(fault, request.receive, send)
        await self._app(scope, stream.receive, stream.send)
        if stream.is_broken and fault.fault == "stall":
            await self._rest(request.receive_rest, None)

    async def _rest(self, receive: Receive, limit_s: float | None) -> bool:
        """Wait; whether the client is still there when the time is up, or everything let go."""
        gone = asyncio.create_task(until_gone(receive))
        released = asyncio.create_task(self._rules.released.wait())
        try:
            await asyncio.wait(
                {gone, released}, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED
            )
            return not gone.done()
        finally:
            gone.cancel()
            released.cancel()


class _Request:
    """A request whose body has been read: `receive` gives it again, `receive_rest` goes on."""

    def __init__(self, call: Call, body: bytes, receive_rest: Receive, receive: Receive) -> None:
        self.receive = receive
        self.receive_rest = receive_rest
        self._value = _parse(body)
        parts = self._value if isinstance(self._value, list) else [self._value]
        self._parts = [part for part in parts if isinstance(part, dict)]  # steps of a gateway's
        names = (part.get(key) for part in self._parts for key in ("model", "endpoint"))
        model = call.model or next((name for name in names if isinstance(name, str)), None)
        is_stream = any(inputs.get("stream") is True for inputs in self._inputs)
        self.subject = Subject(call.account_id, model and _bare_name(model), is_stream)

    def receive_without_stream(self) -> Receive:
        """A `receive` that gives the body as it were if it asked for no stream."""
        for inputs in self._inputs:
            if "stream" in inputs:
                inputs["stream"] = False
        messages = [{"type": "http.request", "body": to_json(self._value)}]

        async def receive() -> Message:
            return messages.pop() if messages else await self.receive_rest()

        return receive

    @property
    def _inputs(self) -> list[dict[str, Any]]:
        """Every object in the body that may be a model's inputs: itself, and those in it."""
        nested = (part.get(key) for part in self._parts for key in ("inputs", "input", "query"))
        return [*self._parts, *(inputs for inputs in nested if isinstance(inputs, dict))]


def _marked(send: Send, name: str) -> Send:
    """A `send` that says in a header that the answer is wrong on purpose."""

    async def send_marked(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message)[FAULT_HEADER] = name
        await send(message)

    return send_marked


def _error(name: str, model: str | None, path: str) -> WireError:
    if name == "retired":
        return Retired(_RETIRED_AS.get(model or "", model or "undefined"))
    if name == "auth":
        return GatewayUnauthorized() if path.startswith(GATEWAY_PREFIX) else AuthenticationFailed()
    return _ERRORS[name]()


def _parse(body: bytes) -> Any:
    """The JSON in a body. What is none is the application's to refuse."""
    try:
        return parse_json(gunzip(body) if body.startswith(GZIP_MAGIC) else body)
    except (IncompleteRequest, RequestTooLarge):
        return None


def _bare_name(model: str) -> str:
    """A model's name without what bindings and AI Gateway put before it."""
    return model.rpartition(":")[2].removeprefix("workers-ai/").removeprefix("run/")
