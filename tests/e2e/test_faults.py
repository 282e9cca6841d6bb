"""Tests what clients receive from a real server that applies faults (errors sent on demand).

With a real model, tests that a fault which breaks the response cancels the generation.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.server import (
    ACCOUNT_ID,
    ENDLESS,
    INT8,
    ServerProcess,
    wait_until,
)

BODY = {**ENDLESS, "stream": True}
HI = {"messages": [{"role": "user", "content": "Hi"}]}
API = f"/client/v4/accounts/{ACCOUNT_ID}/ai"
# For each kind of endpoint: the path, the body, and further headers.
TRANSPORTS: dict[str, tuple[str, Any, dict[str, str]]] = {
    "run": (f"{API}/run/{INT8}", HI, {}),
    "openai": (f"{API}/v1/chat/completions", {**HI, "model": INT8}, {}),
    "gateway": (f"/v1/{ACCOUNT_ID}/default/workers-ai/{INT8}", HI, {}),
    "compat": (
        f"/v1/{ACCOUNT_ID}/default/compat/chat/completions",
        {**HI, "model": f"workers-ai/{INT8}"},
        {},
    ),
    "binding": ("/run?version=3", {"inputs": HI, "options": {}}, {"cf-consn-model-id": INT8}),
}


def call(server: ServerProcess, transport: str, fault: str, *, stream: bool = False) -> Any:
    path, body, headers = TRANSPORTS[transport]
    if stream:
        body = json.loads(json.dumps(body).replace('{"messages"', '{"stream": true, "messages"'))
    headers = {**headers, "x-emulator-fault": fault}
    return httpx.post(f"{server.root}{path}", json=body, headers=headers, timeout=60)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_reset_is_a_connection_error(scripted: ServerProcess, transport: str) -> None:
    with pytest.raises(httpx.ReadError):
        call(scripted, transport, "reset")
    assert call(scripted, transport, "slow-first-token;seconds=0.01").is_success


def test_a_reset_is_a_tcp_reset_before_the_first_byte(scripted: ServerProcess) -> None:
    httpx.post(f"{scripted.root}/_emulator/faults", json={"fault": "reset", "times": 1})
    connection = scripted.connect(HI)
    connection.settimeout(60)
    with connection, pytest.raises(ConnectionResetError):
        connection.recv(1)


@pytest.mark.parametrize(
    ("fault", "outcome"), [("reset", "cut"), ("cut-body", "cut"), ("edge-error", "error")]
)
def test_the_journal_and_the_log_name_the_fault(
    scripted: ServerProcess, fault: str, outcome: str
) -> None:
    with suppress(httpx.TransportError):
        call(scripted, "run", fault)

    def is_shown() -> bool:
        rows = httpx.get(f"{scripted.root}/_emulator/requests?limit=1").json()["requests"]
        return (rows[0]["fault"], rows[0]["outcome"]) == (fault, outcome)

    wait_until(is_shown)
    wait_until(lambda: any(f"fault {fault}" in line for line in scripted.log))
    assert not any("ASGI" in line for line in scripted.log)


def test_a_client_that_disconnects_during_its_upload_uses_up_no_rule(
    scripted: ServerProcess,
) -> None:
    httpx.post(f"{scripted.root}/_emulator/faults", json={"fault": "capacity", "times": 1})
    with scripted.connect(HI, is_whole=False):
        pass
    wait_until(lambda: scripted.outcomes() == [(499, "cancelled")])
    assert [scripted.run(HI).status_code for _ in range(2)] == [429, 200]


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_an_edge_error_is_html(scripted: ServerProcess, transport: str) -> None:
    response = call(scripted, transport, "edge-error;status=524")
    assert response.status_code == 524
    assert response.headers["content-type"] == "text/html; charset=UTF-8"
    assert response.headers["server"] == "cloudflare"
    assert re.fullmatch("[0-9a-f]{16}-LHR", response.headers["cf-ray"])
    assert "<title>524: A timeout occurred</title>" in response.text


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_broken_json_is_a_complete_response(scripted: ServerProcess, transport: str) -> None:
    response = call(scripted, transport, "broken-json")
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    with pytest.raises(ValueError):
        response.json()


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_one_event_of_a_stream_is_not_json(scripted: ServerProcess, transport: str) -> None:
    broken, sound = (
        call(scripted, transport, fault, stream=True).text.split("\n\n")
        for fault in ("broken-json;after_events=2", "slow-first-token;seconds=0.01")
    )
    assert len(broken) == len(sound) and broken[-2:] == ["data: [DONE]", ""]
    with pytest.raises(ValueError):
        json.loads(broken[2].removeprefix("data: "))
    for event in [*broken[:2], *broken[3:-2]]:
        json.loads(event.removeprefix("data: "))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_cut_body_is_incomplete(scripted: ServerProcess, transport: str, stream: bool) -> None:
    with pytest.raises(httpx.RemoteProtocolError, match="peer closed connection"):
        call(scripted, transport, "cut-body", stream=stream)


@pytest.mark.parametrize("connection", ["keep-alive", "close"])
def test_a_cut_body_has_fewer_bytes_than_promised(scripted: ServerProcess, connection: str) -> None:
    httpx.post(f"{scripted.root}/_emulator/faults", json={"fault": "cut-body", "times": 1})
    head, body = raw_response(scripted, connection)
    length = re.search(rb"content-length: (\d+)", head)
    if connection == "close":  # with `keep-alive`, the emulator sends chunks, as Cloudflare does
        assert length and 0 < len(body) < int(length[1])
    else:
        assert length is None and len(body) > 0 and not body.endswith(b"0\r\n\r\n")


@pytest.mark.parametrize("stream", [False, True])
def test_a_cut_body_for_a_client_of_http_1_0_ends_early(
    scripted: ServerProcess, stream: bool
) -> None:
    """The end of the connection marks the end of a body without a length."""
    whole_head, whole = raw_response(scripted, "close", version="1.0", stream=stream)
    httpx.post(f"{scripted.root}/_emulator/faults", json={"fault": "cut-body", "times": 1})
    head, body = raw_response(scripted, "close", version="1.0", stream=stream)
    assert b"transfer-encoding" not in head.lower() + whole_head.lower()
    assert 0 < len(body) < len(whole)
    if stream:
        assert b"data: [DONE]" in whole and b"data: [DONE]" not in body
    else:
        length = re.search(rb"content-length: (\d+)", head)
        assert length and int(length[1]) > len(body)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_an_error_of_the_user_has_the_form_of_the_endpoint(
    scripted: ServerProcess, transport: str
) -> None:
    response = call(scripted, transport, "error;status=418;code=4711;message=No tea")
    body = response.json()
    assert response.status_code == 418
    if transport in ("run", "openai"):
        (entry,) = body["errors"]
        assert entry["code"] == 4711 and entry["message"].startswith("AiError: No tea (")
    else:
        assert (body["internalCode"], body["httpCode"]) == (4711, 418)
        assert body["message"] == "AiError: No tea"


def test_a_fault_can_be_delayed_until_the_client_times_out(scripted: ServerProcess) -> None:
    headers = {"x-emulator-fault": "capacity;delay=3600"}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(scripted.run_url(), json=HI, headers=headers, timeout=0.1)


def test_the_third_call_fails(scripted: ServerProcess) -> None:
    rule = {"fault": "capacity", "contains": "third", "nth": 3}
    httpx.post(f"{scripted.root}/_emulator/faults", json=rule).raise_for_status()
    prompts = ["third", "other", "third", "other", "third", "third"]
    statuses = [scripted.run({"prompt": prompt}).status_code for prompt in prompts]
    assert statuses == [200, 200, 200, 200, 429, 200]


@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_rules_are_sent_as_a_name_an_object_or_a_list(scripted: ServerProcess, method: str) -> None:
    url = f"{scripted.root}/_emulator/faults"
    for body, added in (
        ("capacity", [{"fault": "capacity"}]),
        ({"fault": "error", "status": 503}, [{"fault": "error", "status": 503}]),
        (["reset", {"fault": "stall"}], [{"fault": "reset"}, {"fault": "stall"}]),
    ):
        assert httpx.delete(url).json() == {"faults": []}
        assert httpx.request(method, url, json=body).json() == {"faults": added}
    httpx.delete(url)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("capasity", "did you mean `capacity`?"),
        ({"fault": "capacity", "time": 2}, "unknown key `time`; did you mean `times`?"),
        ({"fault": "capacity", "times": 0}, "`times` takes a whole number from 1, not 0"),
        ({"fault": "error", "status": 200}, "`status` takes a whole number from 400 to 599"),
        ({}, "`fault` is missing"),
    ],
)
def test_a_mistake_in_a_rule_is_described(scripted: ServerProcess, body: Any, message: str) -> None:
    response = httpx.post(f"{scripted.root}/_emulator/faults", json=body)
    assert response.status_code == 400
    assert message in response.json()["errors"][0]["message"]


def test_a_misspelt_fault_in_a_header_is_described(scripted: ServerProcess) -> None:
    response = call(scripted, "run", "capasity")
    assert response.status_code == 400
    assert "did you mean `capacity`?" in response.json()["errors"][0]["message"]


PROGRAM = """
import httpx, sys
body = {"prompt": "Hi", "stream": True}
headers = {"authorization": "Bearer any", "x-emulator-fault": sys.argv[2]}
try:
    response = httpx.post(sys.argv[1], json=body, headers=headers, timeout=60)
    print(response.status_code, response.headers["content-type"])
except httpx.HTTPError as error:
    print(type(error).__name__)
"""


@pytest.mark.parametrize(
    ("fault", "outcomes"),
    [
        # The proxy of `exec` closes the connection instead of resetting it.
        ("reset", {"RemoteProtocolError", "ReadError"}),
        ("edge-error;status=520", {"520 text/html; charset=UTF-8"}),
        ("broken-json", {"200 text/event-stream"}),
        ("cut-body", {"RemoteProtocolError"}),
        ("cut-mid-event", {"RemoteProtocolError"}),
    ],
)
def test_a_program_under_exec_gets_the_fault(
    scripted: ServerProcess, tmp_path: Path, fault: str, outcomes: set[str]
) -> None:
    url = f"https://api.cloudflare.com{API}/run/{INT8}"
    ours = [sys.executable, "-m", "workers_ai_emulator", "exec"]
    port = scripted.root.rpartition(":")[2]
    done = subprocess.run(
        [*ours, "--port", port, sys.executable, "-c", PROGRAM, url, fault],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"XDG_CACHE_HOME": str(tmp_path)},
    )
    assert done.stdout.strip() in outcomes, done.stderr


SCRIPT: list[dict[str, object]] = [
    {"contains": "capacity", "fault": "capacity"},
    {"contains": "own", "fault": "error", "status": 503, "message": "Maintenance"},
    {"contains": "reset", "fault": "reset"},
    {"contains": "page", "fault": "edge-error", "status": 524},
    {"contains": "broken", "fault": "broken-json", "answer": "An answer"},
    {"contains": "cut", "fault": "cut-mid-event", "after_events": 2, "answer": "one two three"},
    {"contains": "stall", "fault": "stall", "after_events": 1, "answer": "one two three"},
    {"contains": "no done", "fault": "no-done", "answer": "one"},
    {"contains": "whole", "fault": "json-instead-of-stream", "answer": "whole answer"},
    {"contains": "slow", "fault": "slow-first-token", "seconds": 3600, "answer": "one"},
]


@pytest.fixture
def with_script(scripted: ServerProcess) -> ServerProcess:
    scripted.set_script(*SCRIPT)
    return scripted


def prompt(server: ServerProcess, text: str, *, timeout: float = 60, **inputs: Any) -> Any:
    return httpx.post(server.run_url(), json={"prompt": text, **inputs}, timeout=timeout)


def test_a_rule_of_the_script_may_be_an_error(with_script: ServerProcess) -> None:
    response = prompt(with_script, "capacity")
    assert response.status_code == 429
    assert response.json()["errors"][0]["code"] == 3040
    assert response.headers["x-emulator-fault"] == "capacity"
    response = prompt(with_script, "own", stream=True)
    assert response.status_code == 503 and "Maintenance" in response.text


def test_a_rule_of_the_script_may_replace_the_response(with_script: ServerProcess) -> None:
    for stream in (False, True):
        response = prompt(with_script, "page", stream=stream)
        assert response.status_code == 524 and "<h1>" in response.text
        with pytest.raises(httpx.ReadError):
            prompt(with_script, "reset", stream=stream)


def test_a_rule_of_the_script_may_break_its_completion(with_script: ServerProcess) -> None:
    with pytest.raises(ValueError):
        prompt(with_script, "broken").json()
    with pytest.raises(httpx.RemoteProtocolError):
        prompt(with_script, "cut", stream=True)
    assert prompt(with_script, "cut").json()["result"]["response"] == "one two three"
    assert "[DONE]" not in prompt(with_script, "no done", stream=True).text
    response = prompt(with_script, "whole", stream=True)
    assert response.json()["result"]["response"] == "whole answer"
    assert response.headers["x-emulator-fault"] == "json-instead-of-stream"


def test_a_rule_of_the_script_may_stall_or_delay_its_completion(
    with_script: ServerProcess,
) -> None:
    body = {"prompt": "stall", "stream": True}
    with httpx.stream("POST", with_script.run_url(), json=body, timeout=60) as response:
        lines = response.iter_lines()
        assert "one" in next(lines)
        assert next(lines) == ""
        httpx.delete(f"{with_script.root}/_emulator/faults")  # ends the stall
        with pytest.raises(httpx.RemoteProtocolError):
            next(lines)
    with pytest.raises(httpx.ReadTimeout):
        prompt(with_script, "slow", timeout=0.1)


def test_a_call_without_a_rule_of_the_script_has_no_fault(with_script: ServerProcess) -> None:
    response = prompt(with_script, "Hi")
    assert response.is_success and "x-emulator-fault" not in response.headers


def raw_response(
    server: ServerProcess, connection: str, *, version: str = "1.1", stream: bool = False
) -> tuple[bytes, bytes]:
    """Sends a call on a connection of its own. Returns the bytes of the head and of the body."""
    url = httpx.URL(server.run_url())
    data = json.dumps({**HI, "stream": stream}).encode()
    lines = [f"POST {url.path} HTTP/{version}", "Host: localhost", f"Connection: {connection}"]
    head = "\r\n".join([*lines, f"Content-Length: {len(data)}", "", ""])
    with socket.create_connection((url.host, url.port or 80), timeout=60) as client:
        client.sendall(head.encode() + data)
        received = b"".join(iter(lambda: client.recv(65536), b""))
    response_head, _, body = received.partition(b"\r\n\r\n")
    return response_head, body


def num_running(server: ServerProcess) -> float:
    return server.metric("workers_ai_emulator_running")


def test_a_stalled_stream_frees_its_slot_while_its_client_waits(server: ServerProcess) -> None:
    headers = {"x-emulator-fault": "stall;after_events=3"}
    url = server.run_url()
    with httpx.stream("POST", url, json=BODY, headers=headers, timeout=60) as response:
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
