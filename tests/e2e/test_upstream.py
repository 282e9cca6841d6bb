"""Tests the backend `upstream`, with real servers and with a fake server that tests configure."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import httpx
import pytest

from tests.server import (
    ENDLESS,
    FP16,
    INT8,
    ServerProcess,
    command,
    server_process,
    wait_until,
)
from tests.upstreams import (
    USAGE,
    WHOLE,
    Exchange,
    FakeUpstream,
    RealServer,
    delta,
    free_port,
    llama_cpp_server,
    llama_server,
    send_completion,
)

KEY = "sk-0123456789"
BGE_M3 = "@cf/baai/bge-m3"
HELLO = {"prompt": "Say hello.", "max_tokens": 12, "temperature": 0}
# llama-server is tested only if LLAMA_CPP_BIN names its folder, because it must be compiled.
REAL_SERVERS = [llama_cpp_server, *([llama_server] if os.environ.get("LLAMA_CPP_BIN") else [])]


@dataclass(frozen=True, slots=True)
class Pair:
    """An emulator with the backend `upstream`, and its upstream server."""

    emulator: ServerProcess
    upstream: RealServer


@pytest.fixture(scope="module", params=REAL_SERVERS)
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    with (
        request.param() as upstream,
        server_process("--backend", "upstream", "--upstream-url", upstream.url) as emulator,
    ):
        yield Pair(emulator, upstream)


@pytest.fixture(scope="module")
def listening() -> Iterator[FakeUpstream]:
    with FakeUpstream().listening() as fake:
        yield fake


@pytest.fixture(scope="module")
def emulator(listening: FakeUpstream) -> Iterator[ServerProcess]:
    """Starts an emulator with an API key for its upstream server, which is the fake server."""
    flags = ["--upstream-url", f"{listening.url}/", "--upstream-api-key", KEY]
    with server_process("--backend", "upstream", *flags) as running:
        yield running


@pytest.fixture
def upstream(listening: FakeUpstream, emulator: ServerProcess) -> FakeUpstream:
    """Returns the fake upstream server, after resetting its state."""
    listening.behaviour = send_completion
    wait_until(lambda: readiness(emulator) == "ready")  # the last test may have made it unready
    listening.requests.clear()
    listening.was_disconnected.clear()
    return listening


def readiness(server: ServerProcess) -> str:
    return str(httpx.get(f"{server.root}/_emulator/readyz", timeout=60).json()["status"])


def events_of(response: httpx.Response) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in response.text.splitlines() if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def error_of(response: httpx.Response) -> tuple[int, int, str]:
    entry = response.json()["errors"][0]
    return response.status_code, entry["code"], entry["message"]


def log_of(server: ServerProcess, text: str) -> str:
    """Waits until the server has logged a line with this text, and returns the first such line."""
    wait_until(lambda: any(text in line for line in server.log))
    return next(line for line in server.log if text in line)


# ── real servers ──────────────────────────────────────────────────────────────────────────────


def test_a_real_server_returns_the_same_text_with_and_without_streaming(pair: Pair) -> None:
    whole = pair.emulator.run(HELLO).json()["result"]
    streamed = events_of(pair.emulator.run({**HELLO, "stream": True}))
    assert whole["response"]
    assert whole["response"] == "".join(event["response"] for event in streamed)
    assert whole["usage"]["completion_tokens"] <= 12
    assert whole["usage"]["total_tokens"] > whole["usage"]["completion_tokens"]


def test_a_real_server_accepts_messages_and_a_raw_prompt(pair: Pair) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi."}]
    for body in ({"messages": messages}, {"prompt": "1 2 3 4 5", "raw": True}):
        response = pair.emulator.run({**body, "max_tokens": 5, "temperature": 0})
        assert response.json()["result"]["response"]
    assert response.headers["x-emulator-model"].endswith(".gguf")


@pytest.mark.parametrize("stream", [True, False])
def test_a_real_server_stops_when_the_client_disconnects(pair: Pair, stream: bool) -> None:
    body = {**ENDLESS, "max_tokens": 900, "stream": stream}
    with pair.emulator.connect(body):
        if pair.upstream.name == "llama-server":
            wait_until(lambda: not pair.upstream.is_idle)
    if pair.upstream.name == "llama-server":
        wait_until(lambda: pair.upstream.is_idle)
    assert (
        pair.emulator.run(HELLO).status_code == 200
    )  # llama_cpp.server responds only after it has stopped the first request


def test_a_prompt_that_is_too_long_for_llama_server_is_the_services_error(pair: Pair) -> None:
    response = pair.emulator.run({**HELLO, "prompt": "word " * 3000})
    if pair.upstream.name == "llama-server":
        status, code, message = error_of(response)
        assert (status, code) == (413, 5021)
        assert f"limit ({pair.upstream.context_length})" in message
    else:  # llama_cpp.server ends the stream without an error
        assert response.status_code == 500
        assert "its log may have the cause" in log_of(pair.emulator, "without a finish reason")


# ── requests ──────────────────────────────────────────────────────────────────────────────────


def test_the_upstream_receives_a_request_of_openais_api(
    emulator: ServerProcess, upstream: FakeUpstream
) -> None:
    response = emulator.run({"prompt": "Hi", "max_tokens": 9, "seed": 3, "top_k": 4})
    assert response.json()["result"] == {"response": "Hello you", "usage": USAGE["usage"]}
    assert response.headers["x-emulator-model"] == "fake"
    (request,) = upstream.requests
    assert request.path == "/v1/chat/completions"
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert {"model": "fake", "max_tokens": 9, "seed": 3, "top_k": 4}.items() <= (
        request.body.items()
    )
    assert request.body["messages"][-1] == {"role": "user", "content": "Hi"}


def test_a_stream_has_one_event_per_event_with_text(
    emulator: ServerProcess, upstream: FakeUpstream
) -> None:
    response = emulator.run({"prompt": "Hi", "stream": True})
    assert [event["response"] for event in events_of(response)] == ["Hello", " you", "", ""]


def written(*events: object) -> str:
    return "".join(f"data: {json.dumps(event)}\n\n" for event in events)


END = delta(None, "stop")
STREAMS = {
    "comments, retry and id": f": hi\n\nretry: 9\n\nid: 1\n\n{written(delta('Hello'), END)}",
    "an empty keep-alive": f"data:\n\ndata\n\n{written(delta('Hello'))}data: \n\n{written(END)}",
    "several lines of data": 'data: {"choices":\ndata:[{"delta":{"content":"Hello"},\n'
    'data:  "finish_reason":"stop"}]}\n\n',
    "CRLF": written(delta("Hel"), delta("lo"), END).replace("\n", "\r\n"),
    "CR": written(delta("Hel"), delta("lo"), END).replace("\n", "\r"),
    "a byte order mark": f"\ufeff{written(delta('Hello'), END)}",
    "no final empty line": written(delta("Hello"), END).rstrip("\n"),
    "no final empty line after CR": written(delta("Hello"), END).replace("\n", "\r").rstrip("\r"),
    "no final empty line at [DONE]": f"{written(delta('Hello'))}data: [DONE]",
    "unknown fields and kinds": f"x: y\nevent: ping\ndata: x\n\n{written(delta('Hello'), END)}",
    "a number": written(delta("Hello"), END).replace('"Hello"', "2024"),
}


@pytest.mark.parametrize("size", [1, 7, 10_000])
@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_is_read_by_the_standard_of_server_sent_events(
    upstream: FakeUpstream, emulator: ServerProcess, name: str, size: int
) -> None:
    body = STREAMS[name].encode()
    upstream.behaviour = lambda exchange: exchange.stream_bytes(body, size)
    response = emulator.run(HELLO)
    expected = "2024" if name == "a number" else "Hello"
    assert response.json()["result"]["response"] == expected, emulator.log[-1]


def test_a_stream_is_in_utf_8_whatever_its_header_says(
    upstream: FakeUpstream, emulator: ServerProcess
) -> None:
    body = 'data: {"choices":[{"delta":{"content":"é€😀"},"finish_reason":"stop"}]}\n\n'.encode()
    kind = "text/event-stream; charset=iso-8859-1"
    upstream.behaviour = lambda exchange: exchange.stream_bytes(body, 3, kind)
    assert emulator.run(HELLO).json()["result"]["response"] == "é€😀"


def test_a_header_chooses_the_upstream(upstream: FakeUpstream) -> None:
    flags = ["--backend", "scripted", "--upstream-url", upstream.url, "--upstream-model", "x"]
    with server_process(*flags) as server:
        url, chosen = server.run_url(), {"x-emulator-backend": "upstream"}
        assert server.run({"prompt": "Hi"}).json()["result"]["response"].startswith("This is a")
        response = httpx.post(url, json={"prompt": "Hi"}, headers=chosen)
    assert response.json()["result"]["response"] == "Hello you"
    assert upstream.requests[-1].body["model"] == "x"
    assert "authorization" not in upstream.requests[-1].headers


# ── tools, JSON mode and reasoning ──

LLAMA = "@cf/meta/llama-3.3-70b-instruct-fp8-fast"
NO_TOOLS = "@cf/meta/llama-3.2-1b-instruct"
QWEN = "@cf/qwen/qwen3-30b-a3b-fp8"
GEMMA = "@cf/google/gemma-4-26b-a4b-it"  # unlike the others, its schema has the key `stop`
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {"type": "function", "function": {"name": "weather", "description": "", "parameters": CITY}}
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
TURNS = [
    {"role": "user", "content": "How is the weather?"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
]


def choice(delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}


def call_part(**function: Any) -> dict[str, Any]:
    return choice({"tool_calls": [{"index": 0, "id": "u1", "function": function}]})


CALLING = (
    choice({"reasoning_content": "Hm"}),
    call_part(name="weather", arguments=""),
    call_part(arguments='{"city": '),
    call_part(arguments='"Rome"}'),
    choice({}, "tool_calls"),
    USAGE,
    "[DONE]",
)


def test_the_upstream_receives_tools_and_json_mode(
    emulator: ServerProcess, upstream: FakeUpstream
) -> None:
    body = {"messages": TURNS, "tools": [TOOL], "tool_choice": "required", "max_tokens": 9}
    json_format = {"type": "json_schema", "json_schema": {"name": "a", "schema": CITY}}
    kwargs = {"enable_thinking": False}
    more = {"stop": ["x"], "response_format": json_format, "chat_template_kwargs": kwargs}
    assert emulator.run(body | more, GEMMA).status_code == 200
    sent = upstream.requests[-1].body
    assert sent["messages"] == TURNS
    assert [tool["function"]["name"] for tool in sent["tools"]] == ["weather"]
    assert (sent["tool_choice"], sent["stop"]) == ("required", ["x"])
    assert sent["response_format"]["json_schema"]["schema"] == CITY
    assert sent["chat_template_kwargs"]["enable_thinking"] is False


def test_a_tool_call_of_the_upstream_is_sent_in_the_models_form(
    emulator: ServerProcess, upstream: FakeUpstream
) -> None:
    upstream.behaviour = lambda exchange: exchange.stream(*CALLING)
    body = {"messages": TURNS[:1], "tools": [TOOL]}
    native = emulator.run(body, LLAMA).json()["result"]
    assert native["tool_calls"] == [{"name": "weather", "arguments": {"city": "Rome"}}]
    (openai,) = emulator.run(body, QWEN).json()["result"]["choices"]
    assert openai["finish_reason"] == "tool_calls"
    assert openai["message"]["reasoning_content"] == "Hm"
    (call,) = openai["message"]["tool_calls"]
    assert (call["id"], call["function"]["arguments"]) == ("u1", '{"city": "Rome"}')


@pytest.mark.parametrize("path", ["run", "chat"])
def test_a_tool_call_is_left_out_and_logged_if_the_model_has_no_tools(
    emulator: ServerProcess, upstream: FakeUpstream, path: str
) -> None:
    upstream.behaviour = lambda exchange: exchange.stream(delta("Hello"), *CALLING)
    body = {"messages": TURNS[:1], "tools": [TOOL]}
    if path == "run":
        assert emulator.run(body, NO_TOOLS).json()["result"]["response"] == "Hello"
    else:
        url = emulator.run_url(NO_TOOLS).partition("/ai/run/")[0] + "/ai/v1/chat/completions"
        (choice,) = emulator.post(url, body | {"model": NO_TOOLS}).json()["choices"]
        assert choice["finish_reason"] == "stop"
        assert choice["message"]["content"] == "Hello" and "tool_calls" not in choice["message"]
    assert "tools" not in upstream.requests[-1].body
    assert "the call is left out" in log_of(emulator, "called the tool weather")


def test_a_stream_has_the_pieces_of_a_tool_call(
    emulator: ServerProcess, upstream: FakeUpstream
) -> None:
    upstream.behaviour = lambda exchange: exchange.stream(*CALLING)
    body = {"messages": TURNS[:1], "tools": [TOOL], "stream": True}
    events = events_of(emulator.run(body, QWEN))
    deltas = [event["choices"][0]["delta"] for event in events if event.get("choices")]
    functions = [delta["tool_calls"][0]["function"] for delta in deltas if "tool_calls" in delta]
    assert "".join(f.get("arguments") or "" for f in functions) == '{"city": "Rome"}'


def test_a_responses_stream_ends_with_the_items_of_the_whole_response(
    emulator: ServerProcess, upstream: FakeUpstream
) -> None:
    def part(index: int, **function: str) -> dict[str, Any]:
        call_id = {"id": f"u{index}"} if "name" in function else {}
        return choice({"tool_calls": [{"index": index, "function": function, **call_id}]})

    upstream.behaviour = lambda exchange: exchange.stream(
        part(0, name="weather", arguments="{"),
        part(1, name="weather", arguments=""),
        part(2, name="weather", arguments=""),
        part(0, arguments="}"),
        choice({}, "tool_calls"),
        "[DONE]",
    )
    url = emulator.run_url().partition("/ai/run/")[0] + "/ai/v1/responses"
    body = {"model": "@cf/openai/gpt-oss-20b", "input": "Weather?"}
    whole = emulator.post(url, body).json()["output"]
    lines = emulator.post(url, body | {"stream": True}).text.splitlines()
    last = json.loads(next(line for line in lines[::-1] if '"response.completed"' in line)[6:])
    assert [(item["call_id"], item["name"], item["arguments"]) for item in whole] == [
        (f"u{index}", "weather", "{}") for index in range(3)
    ]
    key = itemgetter("call_id", "name", "arguments")
    assert list(map(key, last["response"]["output"])) == list(map(key, whole))


def test_a_chat_request_to_the_responses_api_is_refused(emulator: ServerProcess) -> None:
    url = emulator.run_url().partition("/ai/run/")[0] + "/ai/v1/responses"
    for body in ({"messages": TURNS[:1]}, {"messages": TURNS[:1], "input": None}):
        response = emulator.post(url, body | {"model": "@cf/openai/gpt-oss-20b"})
        error = response.json()["error"]
        assert (response.status_code, error["code"]) == (400, "invalid_prompt")
        assert "required properties at '/' are 'input'" in error["message"]


def test_a_tool_call_in_an_unknown_form_is_an_internal_error(
    emulator: ServerProcess, upstream: FakeUpstream
) -> None:
    upstream.behaviour = lambda exchange: exchange.stream(choice({"tool_calls": "weather()"}))
    assert error_of(emulator.run({"messages": TURNS[:1], "tools": [TOOL]}, QWEN))[:2] == (500, 3043)
    assert "weather()" in log_of(emulator, "sent a tool call in an unknown form")


# ── failures before the first byte ────────────────────────────────────────────────────────────


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("status", "text", "expected"),
    [
        (429, "slow down", (429, 3040, "Capacity temporarily exceeded")),
        (503, "Loading model", (429, 3040, "Capacity temporarily exceeded")),
        (400, "no such role", (400, 8007, '"message":"no such role"')),
        (422, "no such role", (400, 8007, '"message":"no such role"')),
        (
            400,
            "This model's maximum context length is 64 tokens and your request has 60 input tokens",
            (413, 5021, "(316) exceeds this model context window limit (64)"),
        ),
        (404, "no such path", (500, 3043, "Internal server error")),
        (500, "boom", (500, 3043, "Internal server error")),
    ],
)
def test_an_error_of_the_upstream_becomes_an_error_of_the_service(
    emulator: ServerProcess,
    upstream: FakeUpstream,
    status: int,
    text: str,
    expected: tuple[int, int, str],
    stream: bool,
) -> None:
    upstream.behaviour = lambda exchange: exchange.answer(status, {"error": {"message": text}})
    actual_status, code, message = error_of(emulator.run({"prompt": "Hi", "stream": stream}))
    assert (actual_status, code) == expected[:2]
    assert expected[2].replace("exceeds", "exceeded") in message
    if expected[0] == 500:
        assert f"upstream at {upstream.url}" in log_of(emulator, text)
    if status == 500:
        wait_until(lambda: readiness(emulator) != "ready")


TOO_LONG = "maximum context length is 2048 tokens and your request has 60 input tokens"


def refuse_max_tokens(exchange: Exchange) -> None:
    if "max_tokens" in exchange.server.requests[-1].body:
        exchange.answer(400, {"error": {"message": TOO_LONG}})
    else:
        exchange.stream(*WHOLE)


def test_a_default_of_max_tokens_that_exceeds_the_context_is_left_out(
    emulator: ServerProcess, upstream: FakeUpstream
) -> None:
    upstream.behaviour = refuse_max_tokens
    (choice,) = emulator.run({"messages": TURNS[:1]}, QWEN).json()["result"]["choices"]
    assert choice["message"]["content"] == "Hello you"
    first, second = (request.body for request in upstream.requests)
    assert first == second | {"max_tokens": 2000}


@pytest.mark.parametrize(
    ("model", "limit", "expected"),
    [(QWEN, 2000, (413, 5021)), (LLAMA, None, (400, 8007)), (LLAMA, 2048, (413, 5021))],
)
def test_a_max_tokens_that_may_not_be_shortened_is_the_services_error(
    emulator: ServerProcess,
    upstream: FakeUpstream,
    model: str,
    limit: int | None,
    expected: tuple[int, int],
) -> None:
    upstream.behaviour = refuse_max_tokens
    response = emulator.run(
        {"messages": TURNS[:1]} | ({"max_tokens": limit} if limit else {}), model
    )
    assert error_of(response)[:2] == expected
    assert len(upstream.requests) == 1


def test_a_rejected_key_is_logged_with_its_setting_and_without_its_value(
    emulator: ServerProcess, upstream: FakeUpstream
) -> None:
    upstream.behaviour = lambda exchange: exchange.answer(401, {"error": f"bad key {KEY}"})
    emulator.run({"prompt": "Hi"})
    assert "401 bad key ***" in log_of(emulator, "check --upstream-api-key")
    assert KEY not in "".join(emulator.log)


@pytest.mark.parametrize(
    ("behaviour", "line"),
    [
        (lambda exchange: exchange.stream(*WHOLE[:3]), "ended a stream without a finish reason"),
        (lambda exchange: exchange.stream(*WHOLE[:3], is_whole=False), "does not answer"),
        (
            lambda exchange: exchange.stream(delta("a"), "{no json"),
            "is not a JSON object: {no json",
        ),
        (lambda exchange: exchange.stream({"error": {"message": "no memory"}}), "no memory"),
        (lambda exchange: exchange.answer(200, {"choices": []}), "streams no events"),
        (lambda exchange: exchange.connection.shutdown(2), "does not answer"),
    ],
)
def test_an_incomplete_or_invalid_stream_is_an_internal_error(
    emulator: ServerProcess,
    upstream: FakeUpstream,
    behaviour: Callable[[Exchange], None],
    line: str,
) -> None:
    upstream.behaviour = behaviour
    assert error_of(emulator.run({"prompt": "Hi"}))[:2] == (500, 3043)
    assert f"upstream at {upstream.url}" in log_of(emulator, line)


def test_an_upstream_that_sends_nothing_times_out(upstream: FakeUpstream) -> None:
    flags = ["--backend", "upstream", "--upstream-url", upstream.url, "--stall-timeout", "2"]
    with server_process(*flags) as impatient:
        upstream.behaviour = Exchange.wait_for_disconnect
        assert error_of(impatient.run({"prompt": "Hi"}))[:2] == (500, 3043)
        assert "it sends nothing" in readiness(impatient)
        upstream.behaviour = send_completion
        wait_until(lambda: readiness(impatient) == "ready")


# ── failures after the first byte ─────────────────────────────────────────────────────────────


def test_a_stream_is_cut_off_when_the_upstreams_stream_is(
    emulator: ServerProcess, upstream: FakeUpstream
) -> None:
    upstream.behaviour = lambda exchange: exchange.stream(*WHOLE[:3], is_whole=False)
    body, received = {"prompt": "Hi", "stream": True}, bytearray()
    with httpx.stream("POST", emulator.run_url(), json=body) as response:
        assert response.status_code == 200
        with pytest.raises(httpx.RemoteProtocolError):
            for part in response.iter_bytes():
                received += part
    assert b"Hello" in received and b"[DONE]" not in received
    assert f"upstream at {upstream.url}" in log_of(emulator, "a stream breaks off")


def test_a_disconnect_after_the_last_event_is_no_error(
    emulator: ServerProcess, upstream: FakeUpstream
) -> None:
    upstream.behaviour = lambda exchange: exchange.stream(*WHOLE, is_whole=False)
    assert emulator.run({"prompt": "Hi"}).json()["result"]["response"] == "Hello you"
    assert readiness(emulator) == "ready"


def test_a_finish_reason_ends_a_stream_and_events_are_counted_without_a_usage(
    emulator: ServerProcess, upstream: FakeUpstream
) -> None:
    upstream.behaviour = lambda exchange: exchange.stream(*WHOLE[:4])
    result = emulator.run({"messages": [{"role": "user", "content": "one two"}]}).json()["result"]
    assert result["response"] == "Hello you"
    assert result["usage"] == {"prompt_tokens": 3, "completion_tokens": 3, "total_tokens": 6}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    "behaviour", [Exchange.stream_until_disconnect, Exchange.wait_for_disconnect]
)
def test_the_upstream_is_disconnected_when_the_client_disconnects(
    emulator: ServerProcess,
    upstream: FakeUpstream,
    behaviour: Callable[[Exchange], None],
    stream: bool,
) -> None:
    upstream.behaviour = behaviour
    with emulator.connect({"prompt": "Hi", "stream": stream}):
        wait_until(lambda: len(upstream.requests) == 1)
    assert upstream.was_disconnected.wait(10)
    upstream.behaviour = send_completion
    assert emulator.run({"prompt": "Hi"}).status_code == 200


def test_the_upstream_is_disconnected_at_the_time_limit(upstream: FakeUpstream) -> None:
    flags = ["--backend", "upstream", "--upstream-url", upstream.url, "--request-timeout", "0.3"]
    with server_process(*flags) as server:
        upstream.behaviour = Exchange.stream_until_disconnect
        assert error_of(server.run({"prompt": "Hi"}))[:2] == (408, 3046)
        assert upstream.was_disconnected.wait(10)


def test_the_upstream_is_disconnected_when_the_server_stops(upstream: FakeUpstream) -> None:
    with ExitStack() as stack:
        flags = ["--backend", "upstream", "--upstream-url", upstream.url]
        with server_process(*flags) as server:
            upstream.behaviour = Exchange.stream_until_disconnect
            upstream.requests.clear()
            stack.enter_context(server.connect({"prompt": "Hi", "stream": True}))
            wait_until(lambda: len(upstream.requests) == 1)
        assert server.process.returncode == 0
        assert upstream.was_disconnected.wait(10)


# ── the start ─────────────────────────────────────────────────────────────────────────────────


def test_readyz_reports_an_unreachable_upstream_until_it_is_reachable() -> None:
    fake, port = FakeUpstream(), free_port()
    flags = ["--backend", "upstream", "--upstream-url", fake.url]
    process = subprocess.Popen(
        [*command(*flags), "--port", str(port)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout

    def status() -> str:
        try:
            return str(httpx.get(f"http://127.0.0.1:{port}/_emulator/readyz").json()["status"])
        except httpx.TransportError:
            return ""

    try:
        refused = f"upstream at {fake.url} does not answer: Connection refused"
        wait_until(lambda: status() == refused)
        with fake.listening():
            wait_until(lambda: status() == "ready")
            assert process.stdout.readline().startswith("http://127.0.0.1:")
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def test_an_upstream_that_restarts_is_used_again() -> None:
    fake = FakeUpstream()
    with ExitStack() as stack:
        with fake.listening():
            flags = ["--backend", "upstream", "--upstream-url", fake.url]
            server = stack.enter_context(server_process(*flags))
            assert server.run({"prompt": "Hi"}).status_code == 200
        assert server.run({"prompt": "Hi"}).status_code == 500
        assert "does not answer" in readiness(server)
        with fake.listening():
            wait_until(lambda: readiness(server) == "ready")
            assert server.run({"prompt": "Hi"}).status_code == 200


@pytest.mark.parametrize("model", [BGE_M3, FP16], ids=["embeddings", "not listed"])
def test_an_upstream_is_ready_again_whatever_model_the_failed_request_had(model: str) -> None:
    fake = FakeUpstream(models=[INT8, BGE_M3], behaviour=send_completion_of_int8)
    with ExitStack() as stack:
        with fake.listening():
            flags = ["--backend", "upstream", "--upstream-url", fake.url]
            server = stack.enter_context(server_process(*flags))
        body = {"text": "a"} if model == BGE_M3 else {"prompt": "Hi"}
        assert server.run(body, model).status_code == 500
        assert "does not answer" in readiness(server)
        with fake.listening():
            wait_until(lambda: readiness(server) == "ready")


def send_completion_of_int8(exchange: Exchange) -> None:
    """Sends a completion of the model INT8, or the error of a server for any other model."""
    if exchange.server.requests[-1].body["model"] == INT8:
        send_completion(exchange)
    else:
        exchange.answer(400, {"error": "this model has no chat completions"})


@pytest.mark.parametrize("status", [500, 501, 502, 504, 529])
def test_an_upstream_whose_own_server_is_down_is_not_ready(
    status: int, emulator: ServerProcess, upstream: FakeUpstream
) -> None:
    upstream.behaviour = lambda exchange: exchange.answer(status, {"error": "no backend"})
    assert emulator.run({"prompt": "Hi"}).status_code == 500
    expected = f"upstream at {upstream.url} answers {status}: no backend"
    wait_until(lambda: readiness(emulator) == expected)
    upstream.behaviour = send_completion
    wait_until(lambda: readiness(emulator) == "ready")


def test_an_upstream_that_fails_for_one_request_stays_ready(
    emulator: ServerProcess, upstream: FakeUpstream
) -> None:
    has_sent_completion = threading.Event()

    def complete(exchange: Exchange) -> None:
        send_completion(exchange)
        has_sent_completion.set()

    def fail_once(exchange: Exchange) -> None:
        upstream.behaviour = complete
        exchange.answer(500, {"error": "a bug"})

    upstream.behaviour = fail_once
    assert emulator.run({"prompt": "Hi"}).status_code == 500
    assert readiness(emulator) == "ready"
    assert has_sent_completion.wait(20)  # the completion of the emulator's own request
    # The emulator reads this completion before that of a later request.
    assert emulator.run({"prompt": "Hi"}).status_code == 200
    assert readiness(emulator) == "ready"
    assert len(upstream.requests) == 3


def test_an_upstream_with_several_models_needs_a_choice(upstream: FakeUpstream) -> None:
    upstream.models = ["one", "two"]
    try:
        with server_process("--backend", "scripted", "--upstream-url", upstream.url) as server:
            headers = {"x-emulator-backend": "upstream"}
            response = httpx.post(server.run_url(), json={"prompt": "Hi"}, headers=headers)
            assert error_of(response)[:2] == (500, 3043)
            assert "one, two" in log_of(server, "--upstream-model")
    finally:
        upstream.models = ["fake"]


def test_of_several_models_the_one_with_the_requested_name_is_used(upstream: FakeUpstream) -> None:
    upstream.models = ["one", "@cf/meta/llama-2-7b-chat-fp16"]
    try:
        with server_process("--backend", "scripted", "--upstream-url", upstream.url) as server:
            url = server.run_url("@cf/meta/llama-2-7b-chat-fp16")
            headers = {"x-emulator-backend": "upstream"}
            assert httpx.post(url, json={"prompt": "Hi"}, headers=headers).status_code == 200
        assert upstream.requests[-1].body["model"] == "@cf/meta/llama-2-7b-chat-fp16"
    finally:
        upstream.models = ["fake"]


def test_a_model_name_with_a_lone_surrogate_is_replaced_in_the_header(
    upstream: FakeUpstream,
) -> None:
    upstream.models = ["model \ud800"]
    try:
        with server_process("--backend", "upstream", "--upstream-url", upstream.url) as server:
            response = server.run({"prompt": "Hi"})
            assert response.status_code == 200
            assert response.headers["x-emulator-model"] == "model%20%3F"
            assert httpx.get(f"{server.root}/_emulator/requests").status_code == 200
            upstream.behaviour = send_embeddings
            response = server.run({"text": ["a"]}, BGE_M3)
            assert response.status_code == 200
            assert response.headers["x-emulator-model"] == "model%20%3F"
    finally:
        upstream.models = ["fake"]


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        ([], "--backend upstream needs --upstream-url"),
        (["--upstream-url", "localhost:8080"], "such as http://127.0.0.1:8080/v1"),
        (["--upstream-url", "ftp://localhost/v1"], "such as http://127.0.0.1:8080/v1"),
        (["--upstream-url", "http://localhost/v1?x=y"], "such as http://127.0.0.1:8080/v1"),
        (["--upstream-url", "http://localhost:x/v1"], "takes a URL"),
        (["--upstream-url", "http://me:pass@localhost/v1"], "takes no user or password"),
        (
            ["--upstream-url", "http://localhost/v1", "--upstream-api-key", "sk-1\n"],
            "--upstream-api-key takes plain characters on one line",
        ),
    ],
)
def test_an_invalid_setting_is_one_line(flags: list[str], line: str) -> None:
    ended = subprocess.run(
        command("--backend", "upstream", *flags), capture_output=True, text=True, timeout=60
    )
    assert (ended.returncode, ended.stdout) == (1, "")
    assert line in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert "pass" not in ended.stderr.replace("password", "") and "sk-1" not in ended.stderr


# ── embeddings ────────────────────────────────────────────────────────────────────────────────


def send_embeddings(exchange: Exchange) -> None:
    """Sends the embedding [number of characters, 1] for each text, the last text first."""
    texts = exchange.server.requests[-1].body["input"]
    data = [
        {"object": "embedding", "index": index, "embedding": [len(text), 1]}
        for index, text in enumerate(texts)
    ]
    usage = {"prompt_tokens": 11, "total_tokens": 11}
    exchange.answer(200, {"object": "list", "data": data[::-1], "usage": usage})


def test_texts_are_sent_to_the_endpoint_for_embeddings(
    emulator: ServerProcess, listening: FakeUpstream
) -> None:
    listening.behaviour = send_embeddings
    body = json.dumps({"text": ["a", "\ud83dbc"]}).encode()  # httpx cannot encode lone surrogates
    result = httpx.post(emulator.run_url(BGE_M3), content=body, timeout=60).json()["result"]
    assert (result["data"], result["shape"]) == ([[1, 1], [3, 1]], [2, 2])
    assert result["meta"]["cost_metric_value_1"] == 11
    request = listening.requests[-1]
    assert request.path == "/v1/embeddings"
    assert request.body["input"] == ["a", "\ud83dbc"]
    assert request.body["encoding_format"] == "float"


def test_decisions_are_computed_from_embeddings(
    emulator: ServerProcess, listening: FakeUpstream
) -> None:
    listening.behaviour = send_embeddings
    question = {"type": "choice", "instructions": "?", "criteria": {"a": None, "bbb": None}}
    body = {"model": "clef", "state": "x", "questions": {"q": question}}
    result = emulator.run(body, "@cf/cloudflare/clef").json()["result"]
    assert listening.requests[-1].body["input"] == ["x", "? a", "? bbb"]
    assert result["answers"]["q"]["choice"] == "a"
    assert result["usage"]["input_tokens"] == 11


def test_no_text_needs_no_request(emulator: ServerProcess, listening: FakeUpstream) -> None:
    listening.behaviour = send_embeddings
    num_requests = len(listening.requests)
    assert emulator.run({"text": []}, BGE_M3).json()["result"]["data"] == []
    assert len(listening.requests) == num_requests


def test_texts_are_ranked_by_their_embeddings(
    emulator: ServerProcess, listening: FakeUpstream
) -> None:
    listening.behaviour = send_embeddings
    body = {"query": "abc", "contexts": [{"text": "a"}, {"text": "abc"}]}
    rows = emulator.run(body, BGE_M3).json()["result"]["response"]
    assert [row["id"] for row in rows] == [1, 0] and rows[0]["score"] == pytest.approx(1)


def test_a_useless_response_for_embeddings_is_an_error(
    emulator: ServerProcess, listening: FakeUpstream
) -> None:
    listening.behaviour = lambda exchange: exchange.answer(200, {"data": []})
    response = emulator.run({"text": "a"}, BGE_M3)
    assert response.status_code == 500
    emulator.wait_for_line("sent no embedding for each of 1 texts")


@pytest.mark.parametrize(("status", "code"), [(400, 8007), (429, 3040), (500, 3043)])
def test_an_error_of_the_upstream_server_becomes_an_error_of_workers_ai(
    emulator: ServerProcess, listening: FakeUpstream, status: int, code: int
) -> None:
    listening.behaviour = lambda exchange: exchange.answer(status, {"error": {"message": "no"}})
    (error,) = emulator.run({"text": "a"}, BGE_M3).json()["errors"]
    assert error["code"] == code
    if status == 500:
        wait_until(lambda: readiness(emulator) != "ready")
