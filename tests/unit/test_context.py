"""Tests the context, which the middleware and the route of one request share."""

from __future__ import annotations

from dataclasses import replace

from workers_ai_emulator.wire.context import CallContext, context_of
from workers_ai_emulator.wire.errors import OUT_OF_CAPACITY, WireError
from workers_ai_emulator.wire.faults import Fault

from tests.asgi import http_scope


def test_a_request_has_one_context_also_in_a_copy_of_its_scope() -> None:
    scope = http_scope()
    context = context_of(scope)
    copied = dict(scope)  # routers also copy the scope
    assert context_of(scope) is context_of(copied) is context


def test_each_request_has_its_own_context() -> None:
    context_of(http_scope()).fault = "capacity"
    assert context_of(http_scope()) == CallContext()


def test_a_forgotten_run_leaves_only_what_the_request_itself_has_set() -> None:
    own = CallContext(account="1" * 32, is_large=True, fault="capacity", needs_token=True)
    context = replace(
        own,
        model="a",
        inputs={},
        rule=1,
        recording="a.json",
        is_unmatched=True,
        scripted_fault=Fault(fault="capacity"),
        error=WireError(OUT_OF_CAPACITY),
        rejects_if_busy=True,
    )
    context.forget_run()
    assert context == own
