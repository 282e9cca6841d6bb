"""Tests how long the start of a generation may take."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from fastapi import Request
from workers_ai_emulator.backends.backend import Backend
from workers_ai_emulator.engine.errors import DeadlineExceeded
from workers_ai_emulator.engine.types import StartedGeneration
from workers_ai_emulator.routes import generation

from tests import generations
from tests.loop import TIMEOUT_S, in_loop


class Limited(generations.FakeGeneration):
    """A generation that stores its time limit."""

    limit_s: float | None = None

    def cancel_after(self, limit_s: float) -> None:
        self.limit_s = limit_s


class SlowBackend:
    """A fake of a backend whose generations start after `delay_s` seconds."""

    def __init__(self, *, is_immediate: bool, delay_s: float = 0) -> None:
        self._is_immediate = is_immediate
        self._delay_s = delay_s
        self.generation = Limited([])

    def is_immediate(self, *_: object) -> bool:
        return self._is_immediate

    async def generate(self, *_: object) -> StartedGeneration:
        await asyncio.sleep(self._delay_s)
        return StartedGeneration(self.generation, "name", lambda: "")


async def start(backend: SlowBackend, limit_s: float) -> None:
    services = SimpleNamespace(backends=SimpleNamespace(request_timeout_s=limit_s))
    app = SimpleNamespace(state=SimpleNamespace(services=services))
    request = Request({"type": "http", "app": app}, asyncio.Queue[Any]().get)
    await generation._start(
        request, cast(Backend, backend), generations.request(), generations.spec()
    )


@pytest.mark.parametrize("is_immediate", [True, False])
def test_the_time_limit_includes_the_start(
    is_immediate: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    times: Iterator[float] = iter((100.0, 100.25))
    monkeypatch.setattr(generation, "time", SimpleNamespace(monotonic=lambda: next(times)))
    backend = SlowBackend(is_immediate=is_immediate)
    in_loop(lambda: start(backend, limit_s=TIMEOUT_S))()
    assert backend.generation.limit_s == TIMEOUT_S - 0.25


@in_loop
async def test_a_start_that_takes_too_long_is_an_error() -> None:
    with pytest.raises(DeadlineExceeded):
        await start(SlowBackend(is_immediate=False, delay_s=TIMEOUT_S), limit_s=0.01)
