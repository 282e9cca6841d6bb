"""Tests how many names of models the backend `upstream` stores."""

from __future__ import annotations

from pathlib import Path

import httpx2
from workers_ai_emulator.backends.upstream import UpstreamBackend
from workers_ai_emulator.models.catalog import ModelSpec
from workers_ai_emulator.wire.context import CallContext

from tests.generations import request
from tests.loop import in_loop


def list_models(_: httpx2.Request) -> httpx2.Response:
    return httpx2.Response(200, json={"data": [{"id": "only"}]})


@in_loop
async def test_at_most_a_thousand_names_of_models_are_stored() -> None:
    backend = UpstreamBackend("http://127.0.0.1:1/v1", api_key=None, model=None, stall_timeout_s=1)
    await backend._client.aclose()
    backend._client = httpx2.AsyncClient(transport=httpx2.MockTransport(list_models))
    specs = [ModelSpec(f"@cf/a/{number}", Path()) for number in range(1001)]
    for spec in specs:
        assert await backend._find_model(spec) == "only"
    stored = [backend.is_immediate(request(), spec, CallContext()) for spec in specs]
    assert stored == [False] + [True] * 1000
    await backend.close()
