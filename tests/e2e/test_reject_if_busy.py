"""Tests the option `rejectIfBusy`, and a header that the emulator accepts without an effect."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from tests.server import ACCOUNT_ID, ENDLESS, INT8, ServerProcess, server_process, wait_until

pytestmark = pytest.mark.documented

GPT_OSS = "@cf/openai/gpt-oss-20b"
MESSAGES = [{"role": "user", "content": "Hi"}]
BINDING = {"cf-consn-model-id": INT8, "cf-consn-sdk-version": "2.0.0"}


@pytest.fixture(scope="module")
def occupied() -> Iterator[ServerProcess]:
    """Starts a server whose only slot is busy for a long time, and whose queue is not full."""
    flags = ("--parallel", "1", "--queue-size", "8", "--context-length", "4096")
    body = {**ENDLESS, "max_tokens": 4000, "stream": True}
    with server_process(*flags) as server, ExitStack() as stack:
        for _ in range(6):
            stack.enter_context(server.connect(body))
        wait_until(lambda: server.metric("workers_ai_emulator_running") == 1)
        yield server


def calls(options: dict[str, Any]) -> dict[str, tuple[str, Any]]:
    """Returns the path and the body of a call with these options, for each kind of call."""
    account = f"/client/v4/accounts/{ACCOUNT_ID}"
    flat = {"messages": MESSAGES, "max_tokens": 2, "options": options}
    inputs = {"messages": MESSAGES, "max_tokens": 2}
    return {
        "run": (f"{account}/ai/run/{INT8}", flat),
        "run, model in the body": (
            f"{account}/ai/run",
            {"model": INT8, "input": inputs, "options": options},
        ),
        "chat completions": (f"{account}/ai/v1/chat/completions", {"model": INT8, **flat}),
        "gateway": (f"/v1/{ACCOUNT_ID}/gw/workers-ai/{INT8}", flat),
        "step of a universal request": (
            f"/v1/{ACCOUNT_ID}/gw",
            [{"provider": "workers-ai", "endpoint": INT8, "query": flat}],
        ),
        "responses": (
            f"/v1/{ACCOUNT_ID}/gw/workers-ai/v1/responses",
            {"model": GPT_OSS, "input": "Hi", "max_output_tokens": 16, "options": options},
        ),
        "binding": ("/run?version=3", {"inputs": inputs, "options": options}),
    }


@pytest.mark.parametrize("kind", calls({}))
def test_a_call_with_the_option_is_refused_at_once(occupied: ServerProcess, kind: str) -> None:
    path, body = calls({"rejectIfBusy": True})[kind]
    response = occupied.post(occupied.root + path, body, BINDING)
    assert response.status_code == 429
    assert "Capacity temporarily exceeded, please try again." in response.text
    assert "3040" in response.text


@pytest.mark.parametrize("options", [{}, {"rejectIfBusy": False}, {"rejectIfBusy": "yes"}, None])
def test_a_call_without_the_option_waits(occupied: ServerProcess, options: Any) -> None:
    path, body = calls(options)["run"]
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(occupied.root + path, json=body, timeout=0.5)


@pytest.mark.parametrize("kind", calls({}))
def test_a_call_with_the_option_runs_if_a_slot_is_free(server: ServerProcess, kind: str) -> None:
    path, body = calls({"rejectIfBusy": True})[kind]
    assert server.post(server.root + path, body, BINDING).status_code == 200


def test_the_header_for_session_affinity_changes_nothing(server: ServerProcess) -> None:
    body = {"messages": MESSAGES, "max_tokens": 2, "temperature": 0}
    headers = {"x-session-affinity": "ses_12345678"}
    with_header = server.post(server.run_url(), body, headers)
    assert with_header.json() == server.run(body).json()
