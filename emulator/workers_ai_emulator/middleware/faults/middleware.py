"""Applies faults to inference calls: errors and broken responses that a user requests for tests.

A fault that replaces the whole response is applied at once: before authorization and validation,
and without a model. Other faults delay or change the application's response. A fault in a rule of
the script is applied when the response begins, because only the backend finds the rule.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from workers_ai_emulator.backends.conditions import subject_of
from workers_ai_emulator.middleware.base import InferenceMiddleware
from workers_ai_emulator.middleware.faults.edge_page import edge_page
from workers_ai_emulator.middleware.faults.request import CallRequest, inputs_of, requests_stream
from workers_ai_emulator.middleware.faults.responses import Cancellation, changed, is_event_stream
from workers_ai_emulator.middleware.faults.rules import (
    FAULT_HEADER,
    FaultRules,
    parse_fault,
    requested_fault,
)
from workers_ai_emulator.wire.body import MAX_BODY_BYTES, compute, read_body
from workers_ai_emulator.wire.calls import InferenceCall
from workers_ai_emulator.wire.connection import reset_connection
from workers_ai_emulator.wire.context import CallContext, context_of
from workers_ai_emulator.wire.disconnect import while_connected
from workers_ai_emulator.wire.errors import WireError
from workers_ai_emulator.wire.faults import ERRORS, WITHOUT_MODEL, Fault, error_of
from workers_ai_emulator.wire.responses import error_response


class FaultMiddleware(InferenceMiddleware):
    """Applies faults to inference calls.

    A call gets the fault that it requests. If it requests none, it gets the fault of the first
    fault rule that matches the call. If no fault rule matches, it gets the fault of the script's
    rule that gives the completion. `has_scripted_faults`: returns whether a rule has a fault.
    """

    def __init__(
        self, app: ASGIApp, rules: FaultRules, has_scripted_faults: Callable[[], bool]
    ) -> None:
        super().__init__(app)
        self._rules = rules
        self._has_scripted_faults = has_scripted_faults

    async def _handle(
        self, call: InferenceCall, scope: Scope, receive: Receive, send: Send
    ) -> None:
        requested = requested_fault(Headers(scope=scope))
        if requested is None and len(self._rules) == 0:
            await self._call_app(scope, receive, send)
            return
        body, receive_again = await read_body(receive)
        if len(body) > MAX_BODY_BYTES:  # the route refuses a body of this size
            await self._app(scope, receive_again, send)
            return
        context = context_of(scope)
        inputs = await inputs_of(body, context)
        request = CallRequest(call, inputs, receive, receive_again)
        try:
            fault = await self._choose(requested, request, context)
        except WireError as error:
            await error_response(scope["path"], error)(scope, receive_again, send)
            return
        if fault is None:
            await self._call_app(scope, receive_again, send)
        else:
            context.fault = fault.fault
            await self._apply(fault, request, scope, _with_fault_header(send, fault.fault))

    async def _call_app(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Calls the application. Applies the fault of a script's rule, if a rule has one."""
        if not self._has_scripted_faults():
            await self._app(scope, receive, send)
            return
        response = _ScriptedFault(scope, receive, send, self._wait)
        await self._app(scope, response.receive, response.send)
        await response.end()

    async def _choose(
        self, requested: str | None, request: CallRequest, context: CallContext
    ) -> Fault | None:
        """Returns the fault that a call requests, else the fault of the first matching fault rule.

        `requested`: the requested fault's name and options, or None. Returns None if no rule
        matches. Also returns None if the requested fault changes a stream but the call does not
        request a stream. Raises WireError if the requested fault does not exist or has invalid
        options, or if the conditions of the rules are too complex for the call.
        """
        if requested is None:
            make = partial(subject_of, model=request.model or "", context=context)
            subject = await compute(context, make, request.inputs)
            return await self._rules.choose(subject, is_stream=request.is_stream)
        fault = parse_fault(requested)
        return fault if fault.fits(is_stream=request.is_stream) else None

    async def _apply(self, fault: Fault, request: CallRequest, scope: Scope, send: Send) -> None:
        if fault.wait_s and not await self._wait(request.receive_rest, fault.wait_s, scope):
            return
        if fault.fault in WITHOUT_MODEL:
            await _replace(fault, request, scope, send)
        elif fault.fault == "json-instead-of-stream":
            await self._app(scope, await request.receive_without_stream(context_of(scope)), send)
        else:
            cancellation = Cancellation(request.receive)
            send = changed(fault, send, cancellation)
            await self._app(scope, cancellation.receive, send)
            if fault.fault == "stall" and cancellation.is_cancelled:
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


class _ScriptedFault:
    """Applies the fault in the script's rule that gives the completion, when the response begins.

    The backend stores the fault in the call's context, and itself raises the faults in ERRORS.
    `wait`: the method `FaultMiddleware._wait`.
    """

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        wait: Callable[[Receive, float | None, Scope], Awaitable[bool]],
    ) -> None:
        self._scope = scope
        self._context = context_of(scope)
        self._cancellation = Cancellation(receive)
        self.receive = self._cancellation.receive
        self._receive = receive
        self._send = send
        self._wait = wait

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            fault = self._context.scripted_fault
            if fault is not None and self._fits(fault, message):
                await self._apply(fault)
        if not self._cancellation.is_cancelled:
            await self._send(message)

    async def end(self) -> None:
        """Keeps a stalled connection open until the client disconnects or faults are reset."""
        if self._context.fault == "stall" and self._cancellation.is_cancelled:
            await self._wait(self._receive, None, self._scope)

    async def _apply(self, fault: Fault) -> None:
        """Waits for the fault's delay, then applies the fault to the messages that follow."""
        self._context.fault = fault.fault
        send = _with_fault_header(self._send, fault.fault)
        self._send = changed(fault, send, self._cancellation)
        if fault.wait_s and not await self._wait(self._receive, fault.wait_s, self._scope):
            self._cancellation.cancel()
        elif fault.fault == "reset":
            reset_connection(self._scope)
            self._cancellation.cancel()
        elif fault.fault == "edge-error":
            await edge_page(fault.http_status)(self._scope, self._receive, send)
            self._cancellation.cancel()

    def _fits(self, fault: Fault, start: Message) -> bool:
        """Returns whether the fault can be applied to the response that begins with `start`."""
        if fault.fault == "json-instead-of-stream":  # `routes/generation.py` sends the JSON
            return requests_stream(self._context.inputs)
        return fault.fits(is_stream=is_event_stream(start))


async def _replace(fault: Fault, request: CallRequest, scope: Scope, send: Send) -> None:
    """Applies a fault that replaces the whole response."""
    if fault.fault in ERRORS:
        error = error_of(fault, request.model, is_gateway=request.is_gateway)
        await error_response(scope["path"], error)(scope, request.receive, send)
    elif fault.fault == "edge-error":
        await edge_page(fault.http_status)(scope, request.receive, send)
    else:
        reset_connection(scope)


def _with_fault_header(send: Send, name: str) -> Send:
    """Returns an ASGI `send` that adds the header `x-emulator-fault` with the fault's name."""

    async def send_with_header(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message)[FAULT_HEADER] = name
        await send(message)

    return send_with_header
