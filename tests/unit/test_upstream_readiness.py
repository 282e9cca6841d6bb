"""Tests when the backend `upstream` tries whether its server is ready."""

from __future__ import annotations

import httpx2
import pytest
from workers_ai_emulator.backends.upstream import UpstreamBackend
from workers_ai_emulator.engine.errors import EngineError
from workers_ai_emulator.engine.pooling import Pooling
from workers_ai_emulator.models.catalog import CATALOG
from workers_ai_emulator.tasks.embeddings import EmbeddingRequest
from workers_ai_emulator.wire.context import CallContext

from tests.loop import in_loop


def refuse(request: httpx2.Request) -> httpx2.Response:
    raise httpx2.ConnectError("refused")


@in_loop
async def test_a_backend_that_was_not_started_sends_no_test_requests() -> None:
    backend = UpstreamBackend("http://127.0.0.1:1/v1", api_key=None, model=None, stall_timeout_s=1)
    await backend._client.aclose()
    backend._client = httpx2.AsyncClient(transport=httpx2.MockTransport(refuse))
    request = EmbeddingRequest(("a",), Pooling.CLS, truncates=True)
    with pytest.raises(EngineError, match="does not answer: refused"):
        await backend.embed(request, CATALOG["@cf/baai/bge-m3"], CallContext())
    assert backend.failure is None
    assert backend._probing is None
    await backend.close()
