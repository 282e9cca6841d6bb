"""Tests which requests the middleware for inference calls handles: only those that run a model."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.types import Receive, Scope, Send
from workers_ai_emulator.middleware.base import InferenceMiddleware
from workers_ai_emulator.wire.calls import InferenceCall

from tests.asgi import Recorder, body_of, call, http_scope
from tests.server import ACCOUNT_ID, INT8

RUN_PATH = f"/client/v4/accounts/{ACCOUNT_ID}/ai/run/{INT8}"


class Handler(InferenceMiddleware):
    """A middleware that stores the calls it handles, and sends no response."""

    def __init__(self, app: Recorder) -> None:
        super().__init__(app)
        self.calls: list[InferenceCall] = []

    async def _handle(
        self, call: InferenceCall, scope: Scope, receive: Receive, send: Send
    ) -> None:
        self.calls.append(call)


def test_an_inference_call_is_handled_instead_of_the_application() -> None:
    app = Recorder()
    middleware = Handler(app)
    assert call(middleware, http_scope(RUN_PATH)) == []
    (handled,) = middleware.calls
    assert (handled.path, handled.account_id, handled.model) == (
        f"/ai/run/{INT8}",
        ACCOUNT_ID,
        INT8,
    )
    assert app.scopes == []


@pytest.mark.parametrize(
    "scope",
    [
        http_scope(RUN_PATH, "GET"),
        http_scope("/_emulator/healthz", "GET"),
        http_scope("/_emulator/faults"),
        {"type": "lifespan"},
        {"type": "websocket", "path": RUN_PATH},
    ],
    ids=lambda scope: scope.get("path", scope["type"]),
)
def test_any_other_request_reaches_the_application_unchanged(scope: dict[str, Any]) -> None:
    app = Recorder()
    middleware = Handler(app)
    sent = call(middleware, scope)
    assert body_of(sent) == (b"OK" if scope["type"] == "http" else b"")
    assert app.scopes == [scope]
    assert middleware.calls == []
