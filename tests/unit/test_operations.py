"""Tests the endpoint `readyz`."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import cast

import httpx
import pytest
from fastapi import FastAPI
from workers_ai_emulator.admin import operations
from workers_ai_emulator.backends.choice import Backends
from workers_ai_emulator.routes.services import Services
from workers_ai_emulator.runtime.model_manager import ModelManager
from workers_ai_emulator.settings import Settings


@dataclass
class FakeModels:
    """A fake of ModelManager with the attributes that `readyz` and `Backends` use."""

    phase: str
    failure: str | None

    def share_memory(self, other: object) -> None: ...


@pytest.mark.parametrize(
    ("models", "status", "text"),
    [
        (FakeModels("ready", None), 200, "ready"),
        (FakeModels("loading x", None), 503, "loading x"),
        (FakeModels("ready", "it hangs"), 503, "it hangs"),
    ],
)
def test_readyz_reports_the_phase_or_the_failure(
    models: FakeModels, status: int, text: str
) -> None:
    app = FastAPI(routes=[*operations.health_router.routes])
    services = Services.create(Settings(), {})
    backends = Backends(Settings(), cast(ModelManager, models))
    app.state.services = replace(services, backends=backends)

    async def get() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.get("/_emulator/readyz")

    response = asyncio.run(get())
    assert (response.status_code, response.json()) == (status, {"status": text})
