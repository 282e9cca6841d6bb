"""Tests with a real model that a fault (a response broken on demand) cancels the generation."""

from __future__ import annotations

import httpx
import pytest

from tests.server import ENDLESS, ServerProcess, wait_until

BODY = {**ENDLESS, "stream": True}


def num_running(server: ServerProcess) -> float:
    return server.metric("workers_ai_emulator_running")


def test_a_stalled_stream_frees_its_slot_while_its_client_waits(server: ServerProcess) -> None:
    headers = {"x-emulator-fault": "stall;after_events=3"}
    with httpx.stream("POST", server.run_url(), json=BODY, headers=headers) as response:
        assert next(response.iter_lines()).startswith("data: ")
        wait_until(lambda: num_running(server) == 0)
        assert not response.is_closed


@pytest.mark.parametrize("fault", ["cut-mid-event", "cut-mid-utf8"])
def test_a_cut_stream_frees_its_slot(server: ServerProcess, fault: str) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.post(server.run_url(), json=BODY, headers={"x-emulator-fault": fault}, timeout=60)
    wait_until(lambda: num_running(server) == 0)


def test_a_call_with_an_error_fault_does_not_reach_the_model(server: ServerProcess) -> None:
    before = server.metric("workers_ai_emulator_tokens_total")
    response = httpx.post(server.run_url(), json=BODY, headers={"x-emulator-fault": "capacity"})
    assert response.status_code == 429
    assert server.metric("workers_ai_emulator_tokens_total") == before
