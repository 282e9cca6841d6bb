"""Tests that equal requests get equal bytes, alone or with others, and with cached prefixes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from benchmarks.determinism import count_differences, make_requests, sequential_responses
from tests.server import FP16, INT8, ServerProcess, server_process

NUM_CLIENTS = 8
TEXT = (
    "The harbour master counted the boats twice, because the fog hid the boats at the far end of "
    "the harbour. He wrote the number of boats into the book, and then he walked to the far end of "
    "the harbour to count the boats once more. The number in the book was wrong."
)


@pytest.fixture(scope="module")
def server_without_drafts() -> Iterator[ServerProcess]:
    with server_process("--no-drafts", "--context-length", "1024") as server:
        yield server


@pytest.mark.parametrize("model", [INT8, FP16])
def test_responses_are_the_same_bytes_whatever_other_requests_run(
    server: ServerProcess, model: str
) -> None:
    requests = make_requests(count=12, max_words=500)
    expected = asyncio.run(sequential_responses(server.run_url(model), requests))
    assert len(set(expected)) == len(requests)
    with server_process("--parallel", "5", "--context-length", "1024") as other:
        for seed in range(2):  # `other` has no cached prefixes in round 0
            num_different = asyncio.run(
                count_differences(
                    other.run_url(model), requests, expected, num_clients=NUM_CLIENTS, seed=seed
                )
            )
            assert num_different == 0


@pytest.mark.parametrize("model", [INT8, FP16])
@pytest.mark.parametrize("temperature", [0, 0.6])
def test_drafts_do_not_change_a_completion(
    server: ServerProcess, server_without_drafts: ServerProcess, model: str, temperature: float
) -> None:
    def answers(of: ServerProcess) -> list[bytes]:
        return [of.run(body, model).content for body in bodies]

    bodies = [
        {"prompt": f"{task}: {TEXT}", "max_tokens": 48, "seed": 1, "temperature": temperature}
        for task in ("Repeat this text word by word", "Quote from this text", "Continue this text")
    ]
    assert answers(server) == answers(server_without_drafts)
    accepted = {"name": "workers_ai_emulator_tokens_total", "kind": "accepted"}
    assert server_without_drafts.metric(**accepted) == 0
    if model == FP16:  # with these weights, a few more tokens in a decode call cost almost nothing
        assert server.metric(**accepted, model=model) > 0


def test_the_seed_setting_applies_to_requests_without_a_seed() -> None:
    def texts(server: ServerProcess, **body: Any) -> set[str]:
        body = {"prompt": "Tell me something.", "max_tokens": 12, "temperature": 2} | body
        return {server.run(body).json()["result"]["response"] for _ in range(4)}

    with server_process("--seed", "5", "--context-length", "512") as server:
        fixed = texts(server)
        assert len(fixed) == 1
        assert texts(server, seed=5) == fixed
        assert texts(server, seed=6) != fixed


def test_responses_vary_without_a_seed(server: ServerProcess) -> None:
    body = {"prompt": "Tell me something.", "max_tokens": 12, "temperature": 2}
    answers: list[httpx.Response] = [server.run(body) for _ in range(4)]
    assert len({answer.json()["result"]["response"] for answer in answers}) > 1
