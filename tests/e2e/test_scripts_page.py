"""Runs the examples of docs/scripts.md: the rules, the commands and the requests."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.pages import blocks
from tests.server import INT8, ServerProcess, server_process

LLAMA = "@cf/meta/llama-3.3-70b-instruct-fp8-fast"  # a model with tools
FIRST, ORDER, REQUEST, FAULTS, TEMPLATES, TOOLS = blocks("scripts.md", "yaml")
SERVE, ASK, CHANGE = blocks("scripts.md", "bash")
(ASKED,) = blocks("scripts.md", "json")
(STRICT,) = blocks("scripts.md", "text")


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """The server that the page starts, with the page's first rules."""
    file: Path = tmp_path_factory.mktemp("script") / "rules.yaml"
    file.write_text(FIRST)
    program, command, *flags, name = shlex.split(SERVE)
    assert (program, command, name) == ("workers-ai-emulator", "serve", file.name)
    with server_process(*flags, str(file)) as running:
        yield running


@pytest.fixture
def scripted(started: ServerProcess) -> ServerProcess:
    started.reset()
    return started


def shell(command: str, server: ServerProcess) -> str:
    command = command.replace("http://127.0.0.1:8790", server.root).replace("curl ", "curl -s ")
    done = subprocess.run(["bash", "-ec", command], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def ask(server: ServerProcess, text: str, *, model: str = INT8, **more: Any) -> httpx.Response:
    return server.run({"prompt": text, **more}, model)


def answer(server: ServerProcess, text: str, **more: Any) -> str:
    """Returns the text of the completion, or the code of the error."""
    body = ask(server, text, **more).json()
    return str(body["result"]["response"] if body["success"] else body["errors"][0]["code"])


def use(server: ServerProcess, rules: str) -> ServerProcess:
    response = server.post(f"{server.root}/_emulator/script", yaml.safe_load(rules))
    assert response.status_code == 200, response.text
    return server


def test_the_first_example(scripted: ServerProcess) -> None:
    assert json.loads(shell(ASK, scripted)) == json.loads(ASKED)
    assert answer(scripted, "The capital of France?") == "The capital of France is Paris."
    assert [answer(scripted, "weather") for _ in range(3)] == ["3040", *["It is sunny."] * 2]
    assert answer(scripted, "x") == "A rule without conditions applies to all other requests."


def test_responses_in_order(scripted: ServerProcess) -> None:
    use(scripted, ORDER)
    assert [answer(scripted, "weather") for _ in range(6)] == [
        "It is sunny.",
        "It rains.",
        "3021",
        '{"sky": "cloudy"}',
        "It is sunny.",
        "It rains.",
    ]
    texts = ["Try again."] * 2 + ["Anything else."]
    assert [answer(scripted, "flaky") for _ in range(3)] == texts


@pytest.mark.parametrize(
    ("body", "headers", "text"),
    [
        (
            {"messages": [{"role": "system", "content": "Talk as a pirate."}]},
            {"x-test-case": "login-1"},
            "Arr.",
        ),
        ({"messages": [{"role": "user", "content": "a"}] * 2}, {}, "As I said."),
        (
            {"messages": [{"role": "user", "content": "a"}] * 3},
            {"x-test-case": "login-1"},
            "A header of the request.",
        ),
        ({"prompt": "x", "response_format": {"type": "json_object"}}, {}, {"ok": True}),
    ],
)
def test_conditions_for_the_request(
    scripted: ServerProcess, body: dict[str, Any], headers: dict[str, str], text: Any
) -> None:
    use(scripted, REQUEST)
    response = scripted.post(scripted.run_url(LLAMA), body, headers)
    assert response.json()["result"]["response"] == text


def test_a_condition_for_streams(scripted: ServerProcess) -> None:
    use(scripted, REQUEST)
    body = ask(scripted, "x", stream=True).text
    assert '"response":" stream."' in body
    assert "scripted answer" in answer(scripted, "x")


def test_faults(scripted: ServerProcess) -> None:
    use(scripted, FAULTS)
    assert answer(scripted, "overloaded") == "3040"
    own = ask(scripted, "billing")
    assert (own.status_code, own.headers["x-emulator-fault"]) == (402, "error")
    assert own.json()["errors"][0]["code"] == 4007
    assert "Payment required." in own.json()["errors"][0]["message"]
    with (
        pytest.raises(httpx.RemoteProtocolError),
        httpx.stream(
            "POST", scripted.run_url(), json={"prompt": "cut", "stream": True}, timeout=60
        ) as response,
    ):
        list(response.iter_lines())
    assert answer(scripted, "cut") == "One two three four five."
    assert answer(scripted, "slow") == "3043"


def test_templates(scripted: ServerProcess) -> None:
    use(scripted, TEMPLATES)
    result = ask(scripted, "How is the weather in Paris?", model=LLAMA).json()["result"]
    assert result["tool_calls"][0]["arguments"] == {"city": "Paris"}
    assert [answer(scripted, "hello world") for _ in range(2)] == ["World", "World, again"]
    assert answer(scripted, 'A "word"!') == f'You said "A \\"word\\"!" to {INT8}.'


def test_tools(scripted: ServerProcess) -> None:
    use(scripted, TOOLS)
    result = ask(scripted, "How is the weather?", model=LLAMA).json()["result"]
    assert result["tool_calls"] == [{"name": "get_weather", "arguments": {"city": "Paris"}}]
    messages = [{"role": "tool", "content": "sunny"}]
    found = scripted.run({"messages": messages}, LLAMA).json()["result"]
    assert found["response"] == "It is sunny in Paris."
    assert answer(scripted, "Write it as JSON.") == '{"city": "Paris", "degrees": 21}'


def test_the_script_can_be_changed(scripted: ServerProcess) -> None:
    expected: list[tuple[str, Callable[[Any], bool]]] = [
        ('"One answer', lambda value: value == {"rules": 1}),
        ('"times": 1', lambda value: value == {"rules": 1}),
        ('"2"}]', lambda value: value == {"rules": 2}),
        ("/script  ", lambda value: [row["used"] for row in value["rules"]] == [1, 0]),
        ("/unused", lambda value: [row["number"] for row in value["rules"]] == [2]),
        ("/unmatched", lambda value: len(value["requests"]) == 1),
        ("DELETE", lambda value: value == {"rules": 4}),
    ]
    answer(use(scripted, "[]"), "nothing")
    for line, (part, is_expected) in zip(CHANGE.splitlines(), expected, strict=True):
        assert part in line
        value = json.loads(shell(line, scripted))
        assert is_expected(value), (line, value)
        if value == {"rules": 2}:
            assert answer(scripted, "a") == "1"


def test_a_strict_server_says_why_no_rule_applies(tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    rules = yaml.safe_load(FIRST)
    file.write_text(yaml.safe_dump(rules[:1]))
    with server_process("--backend", "scripted", "--strict", "--script", str(file)) as server:
        response = ask(server, "What is the capital of Spain?")
        assert response.status_code == 500
        (error,) = response.json()["errors"]
        assert error["code"] == 3905
        assert " ".join(STRICT.split()) in error["message"]
        assert answer(server, "The capital of France?") == "The capital of France is Paris."
