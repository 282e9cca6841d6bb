"""The base class of middleware that handles only inference calls: requests that run a model."""

from __future__ import annotations

from abc import ABC, abstractmethod

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from workers_ai_emulator.wire.calls import InferenceCall, inference_call
from workers_ai_emulator.wire.context import CallContext, context_of
from workers_ai_emulator.wire.responses import disconnect_response


class InferenceMiddleware(ABC):
    """Middleware that handles only inference calls: requests that run a model.

    It passes other requests on to the application unchanged.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        context = context_of(scope)
        if context.call is None:
            _classify(scope, context)
        call = context.call
        if call is None:
            await self._app(scope, receive, send)
        else:
            try:
                await self._handle(call, scope, receive, send)
            except ClientDisconnect:
                await disconnect_response()(scope, receive, send)

    @abstractmethod
    async def _handle(
        self, call: InferenceCall, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Passes an inference call on to `self._app`, or sends a response itself.

        Raises ClientDisconnect if the client disconnects before it has sent the whole request.
        """


def _classify(scope: Scope, context: CallContext) -> None:
    """Finds the inference call of a request, if it is one, and its account and headers."""
    context.call = call = inference_call(scope)
    if call is not None:
        context.account = context.account or call.account_id
        context.headers = Headers(scope=scope)
