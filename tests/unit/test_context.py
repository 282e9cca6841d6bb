"""Tests the context, which the middleware and the route of one request share."""

from __future__ import annotations

from workers_ai_emulator.wire.context import CallContext, context_of

from tests.asgi import http_scope


def test_a_request_has_one_context_also_in_a_copy_of_its_scope() -> None:
    scope = http_scope()
    context = context_of(scope)
    copied = dict(scope)  # routers also copy the scope
    assert context_of(scope) is context_of(copied) is context


def test_each_request_has_its_own_context() -> None:
    context_of(http_scope()).fault = "capacity"
    assert context_of(http_scope()) == CallContext()
