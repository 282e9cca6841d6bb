"""Tests in which thread the backend `upstream` converts a request."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from workers_ai_emulator.backends import upstream
from workers_ai_emulator.backends.openai_request import OpenAIRequest, streaming_request
from workers_ai_emulator.models.catalog import CATALOG
from workers_ai_emulator.wire.context import CallContext

from tests.generations import request
from tests.server import INT8


@pytest.mark.parametrize("is_large", [False, True])
def test_a_large_request_is_converted_in_a_thread(
    is_large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[threading.Thread] = []

    def convert(*args: Any) -> OpenAIRequest:
        threads.append(threading.current_thread())
        return streaming_request(*args)

    monkeypatch.setattr(upstream, "streaming_request", convert)

    async def generate() -> None:
        url = "http://127.0.0.1:1/v1"
        backend = upstream.UpstreamBackend(url, api_key=None, model="m", stall_timeout_s=1)
        context = CallContext(is_large=is_large)
        await backend.generate(request("Say hello."), CATALOG[INT8], context)
        await backend.close()

    asyncio.run(generate())
    assert [thread is threading.main_thread() for thread in threads] == [not is_large]
