"""What readyz says of engines in trouble."""

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
class StandIn:
    """As much of the engines as readyz looks at."""

    phase: str
    failure: str | None


@pytest.mark.parametrize(
    ("engines", "status", "text"),
    [
        (StandIn("ready", None), 200, "ready"),
        (StandIn("loading x", None), 503, "loading x"),
        (StandIn("ready", "it hangs"), 503, "it hangs"),
    ],
)
def test_readyz_tells_the_truth(engines: StandIn, status: int, text: str) -> None:
    app = FastAPI()
    services = Services.create(Settings(), {})
    backends = Backends(Settings(), cast(ModelManager, engines))
    app.state.services = replace(services, backends=backends)
    app.include_router(operations.router)

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.get("/_emulator/readyz")

    answer = asyncio.run(ask())
    assert (answer.status_code, answer.json()) == (status, {"status": text})
