"""Applies faults to inference calls: errors and broken streams that a user requests for tests.

A fault that is an error is sent at once: before authorization and validation, and without a model.
Other faults delay or change the application's response.
"""

from __future__ import annotations

from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from workers_ai_emulator.middleware.base import InferenceMiddleware
from workers_ai_emulator.middleware.faults.rules import (
    FAULT_HEADER,
    FaultRules,
    Subject,
    parse_fault,
    requested_fault,
)
from workers_ai_emulator.middleware.faults.streams import BreakingStream, repeat_end
from workers_ai_emulator.wire.body import (
    GZIP_MAGIC,
    MAX_BODY_BYTES,
    gunzip,
    parse_json,
    read_body,
)
from workers_ai_emulator.wire.calls import InferenceCall
from workers_ai_emulator.wire.context import context_of
from workers_ai_emulator.wire.disconnect import while_connected
from workers_ai_emulator.wire.endpoints import Access
from workers_ai_emulator.wire.envelope import to_json
from workers_ai_emulator.wire.errors import WireError
from workers_ai_emulator.wire.faults import BREAKS, ERRORS, Fault, error_of
from workers_ai_emulator.wire.responses import error_response

_NUM_ENDS = {"no-done": 0, "double-done": 2}  # how many `[DONE]` events the fault sends


class FaultMiddleware(InferenceMiddleware):
    """Applies faults to inference calls.

    A call gets the fault that it requests. If it requests none, it gets the fault of the first
    fault rule that matches the call.
    """

    def __init__(self, app: ASGIApp, rules: FaultRules) -> None:
        super().__init__(app)
        self._rules = rules

    async def _handle(
        self, call: InferenceCall, scope: Scope, receive: Receive, send: Send
    ) -> None:
        requested = requested_fault(Headers(scope=scope))
        if requested is None and len(self._rules) == 0:
            await self._app(scope, receive, send)
            return
        body, receive_again = await read_body(receive)
        if len(body) > MAX_BODY_BYTES:  # the route refuses a body of this size
            await self._app(scope, receive_again, send)
            return
        request = _Request(call, body, receive, receive_again)
        try:
            fault = self._choose(requested, request.subject, context_of(scope).account)
        except WireError as error:
            await error_response(scope["path"], error)(scope, receive_again, send)
            return
        if fault is None:
            await self._app(scope, receive_again, send)
        else:
            context_of(scope).fault = fault.fault
            await self._apply(fault, request, scope, _with_fault_header(send, fault.fault))

    def _choose(self, requested: str | None, subject: Subject, account: str | None) -> Fault | None:
        """Returns the fault that a call requests, else the fault of the first matching fault rule.

        `requested`: the requested fault's name and options, or None. Returns None if no rule
        matches. Also returns None if the requested fault changes a stream but the call does not
        request a stream. Raises WireError if the requested fault does not exist or has invalid
        options.
        """
        if requested is None:
            return self._rules.choose(subject, account)
        fault = parse_fault(requested)
        return fault if fault.fits(is_stream=subject.is_stream) else None

    async def _apply(self, fault: Fault, request: _Request, scope: Scope, send: Send) -> None:
        name = fault.fault
        if name in ERRORS:
            error = error_of(fault, request.subject.model, is_gateway=request.is_gateway)
            await error_response(scope["path"], error)(scope, request.receive, send)
        elif name in BREAKS:
            await self._break(fault, request, scope, send)
        elif name in _NUM_ENDS:
            await self._app(scope, request.receive, repeat_end(send, _NUM_ENDS[name]))
        elif name == "json-instead-of-stream":
            await self._app(scope, request.receive_without_stream(), send)
        elif await self._wait(
            request.receive_rest, fault.seconds, scope
        ):  # the fault slow-first-token
            await self._app(scope, request.receive, send)

    async def _break(self, fault: Fault, request: _Request, scope: Scope, send: Send) -> None:
        """Sends the beginning of a stream, after which uvicorn closes the connection.

        With the fault `stall`, the connection stays open until the client disconnects or the fault
        rules are reset.
        """
        stream = BreakingStream(fault, request.receive, send)
        await self._app(scope, stream.receive, stream.send)
        if stream.is_broken and fault.fault == "stall":
            await self._wait(request.receive_rest, None, scope)

    async def _wait(self, receive: Receive, limit_s: float | None, scope: Scope) -> bool:
        """Waits for `limit_s` seconds, or until the fault rules are reset.

        `limit_s`: None for no limit. Returns False if the client disconnects during the wait,
        otherwise True.
        """
        try:
            reset = self._rules.wait_for_reset(context_of(scope).account)
            await while_connected(reset, receive, limit_s=limit_s)
        except TimeoutError:
            return True
        except ClientDisconnect:
            return False
        return True


class _Request:
    """The request of an inference call, after the middleware has read its body.

    `receive`: an ASGI `receive` that returns the messages with the body again. `receive_rest`: an
    ASGI `receive` that returns only later messages, such as a disconnect.
    """

    def __init__(
        self, call: InferenceCall, body: bytes, receive_rest: Receive, receive: Receive
    ) -> None:
        self.receive = receive
        self.receive_rest = receive_rest
        self.is_gateway = call.endpoint.access is Access.GATEWAY
        self._value = _parse(body)
        parts = self._value if isinstance(self._value, list) else [self._value]
        # AI Gateway's universal endpoint takes a list of requests, which are JSON objects.
        self._parts = [part for part in parts if isinstance(part, dict)]
        names = (part.get(key) for part in self._parts for key in ("model", "endpoint"))
        model = call.model or next((name for name in names if isinstance(name, str)), None)
        is_stream = any(inputs.get("stream") is True for inputs in self._inputs)
        self.subject = Subject(call.account_id, model and _bare_name(model), is_stream)

    def receive_without_stream(self) -> Receive:
        """Returns an ASGI `receive` that returns the request's body with `stream` set to false."""
        for inputs in self._inputs:
            if "stream" in inputs:
                inputs["stream"] = False
        messages = [{"type": "http.request", "body": to_json(self._value)}]

        async def receive() -> Message:
            return messages.pop() if messages else await self.receive_rest()

        return receive

    @property
    def _inputs(self) -> list[dict[str, Any]]:
        """The JSON objects, in the request's body, that may contain the key `stream`."""
        nested = (part.get(key) for part in self._parts for key in ("inputs", "input", "query"))
        return [*self._parts, *(inputs for inputs in nested if isinstance(inputs, dict))]


def _with_fault_header(send: Send, name: str) -> Send:
    """Returns an ASGI `send` that adds the header `x-emulator-fault` with the fault's name."""

    async def send_with_header(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message)[FAULT_HEADER] = name
        await send(message)

    return send_with_header


def _parse(body: bytes) -> Any:
    """Returns the JSON value of a request body, which may be gzipped; None if it is invalid."""
    try:
        return parse_json(gunzip(body) if body.startswith(GZIP_MAGIC) else body)
    except WireError:
        return None


def _bare_name(model: str) -> str:
    """Removes the prefixes of bindings and AI Gateway, such as `workers-ai/`, from a name."""
    return model.rpartition(":")[2].removeprefix("workers-ai/").removeprefix("run/")
