"""Tests completions of the stand-in model over HTTP: streams, JSON, concurrency and disconnects."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from tests.server import ENDLESS, FP16, INT8, ServerProcess, wait_until

MODELS = [INT8, FP16]


def events(response: httpx.Response) -> Iterator[dict[str, Any]]:
    """Yields the JSON of each event of a stream. Asserts that the stream ends with `[DONE]`."""
    is_done = False
    for line in response.iter_lines():
        if line == "data: [DONE]":
            is_done = True
        elif line:
            assert line.startswith("data: {") and not is_done
            yield json.loads(line.removeprefix("data: "))
    assert is_done


def streamed(server: ServerProcess, body: dict[str, Any], model: str = INT8) -> str:
    with httpx.stream(
        "POST", server.run_url(model), json=body | {"stream": True}, timeout=120
    ) as response:
        assert response.headers["content-type"] == "text/event-stream"
        return "".join(event["response"] for event in events(response))


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    "sampling",
    [{"temperature": 0}, {"seed": 7}, {"seed": 8, "top_k": 5, "top_p": 0.9, "temperature": 1.5}],
    ids=str,
)
def test_streamed_text_equals_the_text_in_json(
    server: ServerProcess, model: str, sampling: dict[str, Any]
) -> None:
    body = {"prompt": "Name three kinds of cheese 🧀.", "max_tokens": 48} | sampling
    whole = server.run(body, model).json()["result"]["response"]
    assert streamed(server, body, model) == whole
    assert server.run(body, model).json()["result"]["response"] == whole


def test_each_model_runs_on_its_own_weights(server: ServerProcess) -> None:
    body = {"prompt": "Hi", "max_tokens": 1}
    assert server.run(body, INT8).headers["x-emulator-model"] == "SmolLM2-135M-Instruct.Q8_0"
    assert server.run(body, FP16).headers["x-emulator-model"] == "SmolLM2-135M-Instruct.F16"


GREEDY = {"temperature": 0}
SEEDED = {"temperature": 2, "seed": 3}


@pytest.mark.parametrize(
    ("reference", "parameter"),
    [
        (GREEDY, {"repetition_penalty": 2}),
        (GREEDY, {"frequency_penalty": 2}),
        (GREEDY, {"presence_penalty": 2}),
        (GREEDY, {"temperature": 2}),
        (SEEDED, {"seed": 4}),
        (SEEDED, {"top_k": 2}),
        (SEEDED, {"top_p": 0.3}),
    ],
    ids=str,
)
def test_every_sampling_parameter_is_applied(
    server: ServerProcess, reference: dict[str, Any], parameter: dict[str, Any]
) -> None:
    body = {"prompt": "Write the word apple twenty times.", "max_tokens": 32} | reference
    plain = server.run(body).json()["result"]["response"]
    assert server.run(body | parameter).json()["result"]["response"] != plain


def test_max_tokens_limits_the_completion(server: ServerProcess) -> None:
    usage = server.run({"prompt": "Tell me a long story", "max_tokens": 5}).json()["result"][
        "usage"
    ]
    assert usage["completion_tokens"] == 5


def test_a_raw_prompt_gets_no_chat_template(server: ServerProcess) -> None:
    raw = server.run({"prompt": "One two three", "raw": True, "max_tokens": 1})
    wrapped = server.run({"prompt": "One two three", "max_tokens": 1})
    assert raw.json()["result"]["usage"]["prompt_tokens"] <= 4
    assert wrapped.json()["result"]["usage"]["prompt_tokens"] > 30


def test_all_of_8_streams_begin_before_any_ends(server: ServerProcess) -> None:
    begun = threading.Barrier(8, timeout=60)

    def stream(number: int) -> None:
        body = {"prompt": f"Count from {number}.", "stream": True, "max_tokens": 100, "seed": 1}
        with httpx.stream("POST", server.run_url(), json=body, timeout=120) as response:
            incoming = events(response)
            next(incoming)
            begun.wait()  # raises if a stream ended before all began
            list(incoming)

    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(stream, number) for number in range(8)]:
            done.result()


@pytest.mark.parametrize("is_stream", [True, False], ids=["stream", "json"])
@pytest.mark.parametrize("prompt", [ENDLESS["prompt"], "word " * 1500], ids=["decode", "prefill"])
def test_a_disconnect_frees_the_slot(server: ServerProcess, prompt: str, is_stream: bool) -> None:
    before = num_cancelled(server)
    body = {**ENDLESS, "prompt": prompt, "stream": is_stream, "max_tokens": 400}
    with server.connect(body):
        wait_until(lambda: server.metric("workers_ai_emulator_running", model=INT8) == 1)
    wait_until(lambda: num_cancelled(server) == before + 1)
    assert server.metric("workers_ai_emulator_free_slots", model=INT8) == 8


def test_a_disconnect_removes_a_waiting_request(server: ServerProcess) -> None:
    before = num_cancelled(server)
    prompt_tokens = server.metric("workers_ai_emulator_tokens_total", model=INT8, kind="prompt")
    body = {"prompt": "word " * 1200, "max_tokens": 400}
    with ExitStack() as connections:
        for _ in range(12):  # 4 more than the server has slots
            connections.enter_context(server.connect(body))
        wait_until(lambda: num_unfinished(server) == 12)
        assert server.metric("workers_ai_emulator_waiting", model=INT8) >= 4
    wait_until(lambda: num_cancelled(server) == before + 12)
    assert server.metric("workers_ai_emulator_free_slots", model=INT8) == 8
    assert server.metric("workers_ai_emulator_waiting", model=INT8) == 0
    after = server.metric("workers_ai_emulator_tokens_total", model=INT8, kind="prompt")
    assert after < prompt_tokens + 12 * 1200


def test_a_client_that_does_not_read_frees_its_slot(server: ServerProcess) -> None:
    with server.connect({**ENDLESS, "stream": True, "max_tokens": 300}):
        wait_until(lambda: server.metric("workers_ai_emulator_running", model=INT8) == 1)
        assert server.run({"prompt": "Hi", "max_tokens": 3}).status_code == 200
        wait_until(lambda: server.metric("workers_ai_emulator_free_slots", model=INT8) == 8)


def num_unfinished(server: ServerProcess) -> float:
    return sum(
        server.metric(f"workers_ai_emulator_{state}", model=INT8)
        for state in ("running", "waiting")
    )


def num_cancelled(server: ServerProcess) -> float:
    return server.metric("workers_ai_emulator_requests_total", model=INT8, reason="cancelled")
