"""Tests how a model whose result is numbers is run: the backend, the time limit, the counts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import Request
from workers_ai_emulator.models.catalog import CATALOG
from workers_ai_emulator.routes.numeric_result import run_backend
from workers_ai_emulator.tasks.embeddings import Embeddings
from workers_ai_emulator.wire.context import CallContext, set_context
from workers_ai_emulator.wire.errors import REQUEST_TIMEOUT, WireError

from tests.asgi import http_scope
from tests.loop import TIMEOUT_S, in_loop

SPEC = CATALOG["@cf/baai/bge-m3"]

Work = Callable[[Any], Coroutine[Any, Any, tuple[Embeddings, str]]]


@dataclass
class FakeBackends:
    """A fake of the server's backends. `chosen`: the names that requests have asked for."""

    request_timeout_s: float | None = None
    chosen: list[str | None] = field(default_factory=list)

    def choose(self, name: str | None) -> str:
        self.chosen.append(name)
        return name or "default"


async def embedded(backend: Any) -> tuple[Embeddings, str]:
    return Embeddings([[1.0]], 5), f"model of {backend}"


def run(
    backends: FakeBackends, context: CallContext, headers: dict[str, str], work: Work = embedded
) -> Coroutine[Any, Any, tuple[Embeddings, dict[str, str]]]:
    app = SimpleNamespace(state=SimpleNamespace(services=SimpleNamespace(backends=backends)))
    scope = http_scope(headers=headers, app=app)
    set_context(scope, context)
    request = Request(scope, asyncio.Queue[Any]().get)
    return run_backend(request, SPEC, ["a", "b c"], work)


@pytest.mark.parametrize("name", [None, "scripted"])
def test_the_header_names_the_backend(name: str | None) -> None:
    backends = FakeBackends()
    header = {} if name is None else {"x-emulator-backend": name}
    _, headers = asyncio.run(run(backends, CallContext(), header))
    assert backends.chosen == [name]
    assert headers["x-emulator-model"] == f"model%20of%20{name or 'default'}"


@in_loop
async def test_the_context_gets_the_texts_and_the_number_of_their_tokens() -> None:
    context = CallContext()
    result, headers = await run(FakeBackends(), context, {})
    assert result.num_tokens == 5 and headers["cf-ai-neurons"] == "0.01"
    assert context.model == SPEC.name and context.started is not None
    assert context.started.prompt() == "a\n\nb c"
    usage = context.started.generation.usage
    assert (usage.num_prompt_tokens, usage.num_completion_tokens) == (5, 0)


@in_loop
async def test_work_that_takes_too_long_is_cancelled() -> None:
    cancelled: list[bool] = []

    async def slow(backend: Any) -> tuple[Embeddings, str]:
        try:
            await asyncio.sleep(2 * TIMEOUT_S)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise
        raise AssertionError

    with pytest.raises(WireError) as failure:
        await run(FakeBackends(request_timeout_s=0.01), CallContext(), {}, slow)
    assert failure.value.type is REQUEST_TIMEOUT and cancelled == [True]
