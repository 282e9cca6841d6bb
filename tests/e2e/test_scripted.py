"""Tests the backend `scripted` over HTTP: endpoints, rules, and the choice of the backend."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.server import ACCOUNT_ID, FP16, INT8, ServerProcess, command, server_process, wait_until

RULES = """
- contains: capital of France
  answer: The capital of France is Paris.
- model: "*fp16"
  answer: I am the large one.
- matches: ^count to (\\d+)$
  answer: one two three
  finish: length
- contains: once
  answer: This is said once.
  times: 1
- last_role: tool
  answer: It is sunny in Paris.
- contains: weather
  reasoning: I need the weather.
  tool_calls:
    - name: get_weather
      arguments: {city: Paris}
- contains: slowly
  answer: word word word word word word word word
  tokens_per_second: 0.1
"""
FRANCE = {"messages": [{"role": "user", "content": "What is the capital of France?"}]}
TEXT = "The capital of France is Paris."
WORDS = ["The", " capital", " of", " France", " is", " Paris.", ""]


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    file: Path = tmp_path_factory.mktemp("rules") / "rules.yaml"
    file.write_text(RULES)
    flags = ["--cassettes", str(file.parent), "--record-from", "scripted"]
    with server_process("--backend", "scripted", "--script", str(file), *flags) as running:
        yield running


def events_of(response: httpx.Response) -> list[Any]:
    """Returns the JSON of all events of a stream except for the last one, `[DONE]`."""
    lines = [line.removeprefix("data: ") for line in response.text.splitlines() if line]
    assert response.headers["content-type"] == "text/event-stream"
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def account_url(server: ServerProcess, path: str) -> str:
    return f"{server.base_url}/accounts/{ACCOUNT_ID}/ai{path}"


# ── endpoints ─────────────────────────────────────────────────────────────────────────────────

USAGE = {"prompt_tokens": 7, "completion_tokens": 7, "total_tokens": 14}


def test_the_run_endpoint_returns_the_completion_and_the_usage(scripted: ServerProcess) -> None:
    response = scripted.run(FRANCE)
    assert response.json()["result"] == {"response": TEXT, "usage": USAGE}
    assert response.headers["x-emulator-model"] == "scripted"


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"prompt": "Nice \ud83d"}, "Nice \ud83d"),
        ({"messages": [{"role": "user", "content": "\udc00 Nice"}]}, "\udc00 Nice"),
        ({"messages": [{"role": "us\ud83der", "content": "a\udfffb"}]}, "a\udfffb"),
    ],
)
@pytest.mark.parametrize("backend", ["scripted", "record"])
def test_lone_surrogates_are_the_same_in_json_and_in_a_stream(
    scripted: ServerProcess, body: dict[str, Any], text: str, backend: str
) -> None:
    def post(**more: Any) -> httpx.Response:
        content = json.dumps(body | more).encode()  # httpx's `json` cannot encode lone surrogates
        headers = {"x-emulator-backend": backend}
        return httpx.post(scripted.run_url(), content=content, headers=headers, timeout=120)

    whole = post().json()["result"]["response"]
    events = events_of(post(stream=True))
    assert whole == "".join(event["response"] for event in events)
    assert whole == f"This is a scripted answer to: {text}"
    rows = httpx.get(f"{scripted.root}/_emulator/requests?limit=1").json()["requests"]
    entry = httpx.get(f"{scripted.root}/_emulator/requests/{rows[0]['id']}")
    assert entry.status_code == 200 and entry.json()["outcome"] == "ok"


def test_a_stream_has_one_event_per_word_and_the_usage_last(scripted: ServerProcess) -> None:
    events = events_of(scripted.run({**FRANCE, "stream": True}))
    assert [event["response"] for event in events] == [*WORDS, ""]
    assert events[-1]["usage"] == USAGE


def test_chat_completions_work_with_and_without_streaming(scripted: ServerProcess) -> None:
    url, body = account_url(scripted, "/v1/chat/completions"), {"model": INT8, **FRANCE}
    (choice,) = scripted.post(url, body).json()["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == (TEXT, "stop")
    events = events_of(scripted.post(url, {**body, "stream": True}))
    assert [event["choices"][0]["delta"]["content"] for event in events] == WORDS
    assert events[-1]["choices"][0]["finish_reason"] == "stop"


def test_completions_work_with_a_prompt(scripted: ServerProcess) -> None:
    url = account_url(scripted, "/v1/completions")
    body = {"model": INT8, "prompt": "count to 3"}
    (choice,) = scripted.post(url, body).json()["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("one two three", "length")


def test_gateway_and_binding_endpoints_use_the_rules(scripted: ServerProcess) -> None:
    gateway = f"{scripted.root}/v1/{ACCOUNT_ID}/mine/workers-ai/{INT8}"
    assert scripted.post(gateway, FRANCE).json()["result"]["response"] == TEXT
    headers = {"cf-consn-model-id": INT8, "cf-consn-sdk-version": "2.0.0"}
    url = f"{scripted.root}/run?version=3"
    binding = httpx.post(url, json={"inputs": FRANCE, "options": {}}, headers=headers)
    assert binding.json() == {"response": TEXT, "usage": USAGE}


# ── rules ─────────────────────────────────────────────────────────────────────────────────────


def test_a_rule_with_a_model_applies_to_that_model_only(scripted: ServerProcess) -> None:
    assert scripted.run({"prompt": "Hi"}, FP16).json()["result"]["response"] == (
        "I am the large one."
    )
    assert scripted.run({"prompt": "Hi"}, INT8).json()["result"]["response"] == (
        "This is a scripted answer to: Hi"
    )


def test_a_rule_with_times_applies_that_often(scripted: ServerProcess) -> None:
    texts = [scripted.run({"prompt": "once"}).json()["result"]["response"] for _ in range(2)]
    assert texts == ["This is said once.", "This is a scripted answer to: once"]


def test_max_tokens_limits_the_number_of_words(scripted: ServerProcess) -> None:
    result = scripted.run({**FRANCE, "max_tokens": 2}).json()["result"]
    assert result["response"] == "The capital"
    assert result["usage"]["completion_tokens"] == 2


def test_equal_requests_get_equal_bytes(scripted: ServerProcess) -> None:
    for body in (FRANCE, {**FRANCE, "stream": True}):
        assert len({scripted.run(body).content for _ in range(5)}) == 1


def test_invalid_requests_get_the_errors_of_the_service(scripted: ServerProcess) -> None:
    response = scripted.run({"prompt": "Hi", "max_tokens": -1})
    assert (response.status_code, response.json()["errors"][0]["code"]) in {
        (400, 5006),
        (400, 8007),
    }
    assert scripted.run({"prompt": "Hi"}, "@cf/none/such").json()["errors"][0]["code"] == 7000


@pytest.mark.parametrize("stream", [True, False])
def test_a_slow_generation_is_cancelled_when_its_client_disconnects(
    scripted: ServerProcess, stream: bool
) -> None:
    num_ended = sum("cancelled" in line for line in scripted.log)
    with scripted.connect({"prompt": "slowly", "stream": stream}) as connection:
        if stream:
            assert connection.recv(2**16)
    wait_until(lambda: sum("cancelled" in line for line in scripted.log) > num_ended)


def test_a_slow_generation_is_aborted_when_the_server_stops(tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text(RULES)
    with server_process("--backend", "scripted", "--script", str(file)) as server:
        connection = server.connect({"prompt": "slowly"})
    with connection:
        assert b" 408 " in connection.recv(2**16).partition(b"\r\n")[0]
    assert server.process.returncode == 0


def test_no_expression_of_a_posted_script_blocks_the_server(tmp_path: Path) -> None:
    with server_process("--backend", "scripted") as server:
        control = f"{server.root}/_emulator"
        rules = [{"matches": "(a+)+$", "answer": "1"}, {"matches": "(x?){1000}y", "answer": "2"}]
        assert server.post(f"{control}/script", rules).json() == {"rules": 2}
        text = "a" * 38 + "!"
        assert server.run({"prompt": text}).json()["result"]["response"].endswith(text)
        refused = server.run({"prompt": "x" * 1_000_000})
        assert refused.status_code == 400 and "rule 2 is too complex" in refused.text
        response = server.post(f"{control}/script", [{"matches": r"(a)\1", "answer": "1"}])
        assert [error["message"] for error in response.json()["errors"]] == [
            'rule 1: `matches`: a back-reference such as \\1 is not supported, not "(a)\\\\1"'
        ]
    assert server.process.returncode == 0


# ── tools and JSON mode ──

LLAMA, QWEN, QWQ = (
    "@cf/meta/llama-3.3-70b-instruct-fp8-fast",
    "@cf/qwen/qwen3-30b-a3b-fp8",
    "@cf/qwen/qwq-32b",
)
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": CITY}}
WEATHER: dict[str, Any] = {
    "messages": [{"role": "user", "content": "How is the weather?"}],
    "tools": [TOOL],
}
ARGUMENTS = '{"city": "Paris"}'


def test_a_tool_loop_is_scripted_in_workers_ais_form(scripted: ServerProcess) -> None:
    result = scripted.run(WEATHER, LLAMA).json()["result"]
    assert result["response"] is None
    assert result["tool_calls"] == [{"name": "get_weather", "arguments": {"city": "Paris"}}]
    turns = [
        {"role": "assistant", "content": "", "tool_calls": []},
        {"role": "tool", "name": "get_weather", "content": "sunny"},
    ]
    second = {**WEATHER, "messages": WEATHER["messages"] + turns}
    assert scripted.run(second, LLAMA).json()["result"]["response"] == "It is sunny in Paris."


def test_a_tool_loop_is_scripted_in_openais_form(scripted: ServerProcess) -> None:
    url, body = account_url(scripted, "/v1/chat/completions"), {"model": QWEN, **WEATHER}
    (choice,) = scripted.post(url, body).json()["choices"]
    assert choice["finish_reason"] == "tool_calls"
    (call,) = choice["message"]["tool_calls"]
    assert call["function"] == {"name": "get_weather", "arguments": ARGUMENTS}
    result = {"role": "tool", "tool_call_id": call["id"], "content": "sunny"}
    turns = [*WEATHER["messages"], choice["message"] | {"content": ""}, result]
    (choice,) = scripted.post(url, {**body, "messages": turns}).json()["choices"]
    assert choice["message"]["content"] == "It is sunny in Paris."


def test_a_stream_has_the_words_of_the_reasoning_and_of_the_arguments(
    scripted: ServerProcess,
) -> None:
    url, body = account_url(scripted, "/v1/chat/completions"), {"model": QWEN, **WEATHER}
    events = events_of(scripted.post(url, {**body, "stream": True}))
    choices = [event["choices"][0] for event in events if event["choices"]]
    deltas = [choice["delta"] for choice in choices]
    reasoning = [d["reasoning_content"] for d in deltas if d.get("reasoning_content")]
    assert reasoning == ["I", " need", " the", " weather."]
    functions = [d["tool_calls"][0]["function"] for d in deltas if d.get("tool_calls")]
    assert functions[0]["name"] == "get_weather"
    assert [f["arguments"] for f in functions if f.get("arguments")] == ['{"city":', ' "Paris"}']
    assert choices[-1]["finish_reason"] == "tool_calls"


def test_equal_requests_get_equal_tool_calls(scripted: ServerProcess) -> None:
    for model in (LLAMA, QWEN):
        calls = set()
        for _ in range(3):
            result = scripted.run(WEATHER, model).json()["result"]
            calls.add(json.dumps(result.get("tool_calls") or result["choices"]))
        assert len(calls) == 1


def test_reasoning_is_in_the_text_of_a_model_that_has_it_there(scripted: ServerProcess) -> None:
    turns = [{"role": "user", "content": "How is the weather?"}]
    result = scripted.run({"messages": turns, "max_tokens": 20}, QWQ).json()["result"]
    assert result["tool_calls"][0]["name"] == "get_weather"
    assert result["response"] == "<think>\nI need the weather.\n</think>\n\n"


@pytest.mark.parametrize(
    ("choice", "calls"),
    [
        ("required", [{"name": "get_weather", "arguments": {"city": ""}}]),
        ("auto", []),
    ],
)
def test_a_required_tool_is_called_without_a_rule(
    scripted: ServerProcess, choice: str, calls: Any
) -> None:
    turns = [{"role": "user", "content": "Hi"}]
    body = {"messages": turns, "tools": [TOOL], "tool_choice": choice}
    assert scripted.run(body, LLAMA).json()["result"]["tool_calls"] == calls


def test_json_mode_gets_valid_json_without_a_rule(scripted: ServerProcess) -> None:
    schema: dict[str, Any] = {
        "properties": {"age": {"type": "integer", "minimum": 18}},
        "required": ["age"],
    }
    body = {"prompt": "Hi", "response_format": {"type": "json_schema", "json_schema": schema}}
    assert scripted.run(body, LLAMA).json()["result"]["response"] == {"age": 18}
    schema["properties"]["age"]["maximum"] = 17
    response = scripted.run(body, LLAMA)
    assert response.status_code == 400
    assert "no simple number is within its limits; add a rule" in response.text


# ── the choice of the backend ─────────────────────────────────────────────────────────────────


def test_no_model_is_loaded(scripted: ServerProcess) -> None:
    scripted.run(FRANCE)
    metrics = httpx.get(f"{scripted.root}/_emulator/metrics").text
    assert "workers_ai_emulator_slots{" not in metrics
    maps = Path(f"/proc/{scripted.process.pid}/maps")
    assert not maps.exists() or not re.search(r"libllama|\.gguf", maps.read_text())


def test_a_header_chooses_another_backend(server: ServerProcess) -> None:
    body = {"prompt": "Hi", "max_tokens": 3}
    chosen = httpx.post(server.run_url(), json=body, headers={"x-emulator-backend": "scripted"})
    assert chosen.json()["result"]["response"] == "This is a"
    assert chosen.headers["x-emulator-model"] == "scripted"
    assert server.run(body).headers["x-emulator-model"] != "scripted"


@pytest.mark.parametrize(
    ("backend", "text"),
    [
        ("gpt", "takes one of llama, scripted, upstream, record, replay, not gpt"),
        (
            "scriptd",
            "takes one of llama, scripted, upstream, record, replay, not scriptd; "
            "did you mean `scripted`?",
        ),
    ],
)
def test_an_unknown_backend_is_refused_with_the_names_of_all_backends(
    scripted: ServerProcess, backend: str, text: str
) -> None:
    headers = {"x-emulator-backend": backend}
    response = httpx.post(scripted.run_url(), json=FRANCE, headers=headers)
    assert response.status_code == 400
    assert f"x-emulator-backend {text}" in response.json()["errors"][0]["message"]


def test_the_backend_upstream_is_refused_without_the_url_of_a_server(
    scripted: ServerProcess,
) -> None:
    headers = {"x-emulator-backend": "upstream"}
    response = httpx.post(scripted.run_url(), json=FRANCE, headers=headers)
    assert response.status_code == 400
    text = "x-emulator-backend: upstream needs a server with --upstream-url"
    assert text in response.json()["errors"][0]["message"]


# ── invalid files ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("write", "num_lines"),
    [
        (lambda file: file.write_text("- {answer: a, times: 0}\n- {contains: x}\n"), 2),
        (lambda file: file.write_text("- answer: [\n"), 1),
        (lambda file: file.write_bytes(b"\xff"), 1),
        (lambda file: file.write_text("answers: a\n"), 1),
    ],
)
def test_each_mistake_in_the_rules_is_one_line(
    write: Callable[[Path], object], num_lines: int, tmp_path: Path
) -> None:
    file = tmp_path / "rules.yaml"
    write(file)
    flags = ("--backend", "scripted", "--script", str(file))
    ended = subprocess.run(command(*flags), capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout) == (1, "")
    lines = ended.stderr.splitlines()
    assert len(lines) == num_lines
    assert all("--script: " in line and str(file) in line for line in lines)


def test_a_missing_file_of_rules_is_a_usage_error(tmp_path: Path) -> None:
    flags = ("--backend", "scripted", "--script", str(tmp_path / "none.yaml"))
    ended = subprocess.run(command(*flags), capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert "none.yaml" in ended.stderr
