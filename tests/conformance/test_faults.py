"""Tests faults (errors on demand), daily neurons, and the endpoints that control them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.server import ACCOUNT_ID, FP16, INT8, ServerProcess, server_process, wait_until

pytestmark = pytest.mark.inferred

OTHER_ACCOUNT = "f" * 32
PROMPT = {"prompt": "Hi"}
STREAM = {"prompt": "Hi", "stream": True}
BINDING = {"cf-consn-model-id": INT8}
ERRORS = {
    "capacity": (429, 3040),
    "rate-limit": (429, 3021),
    "daily-limit": (429, 4006),
    "account-limited": (429, 3036),
    "paid-plan": (403, 5035),
    "timeout": (408, 3046),
    "aborted": (408, 3008),
    "retired": (410, 5028),
    "internal": (500, 3043),
    "gateway-rate-limit": (429, 2003),
    "gateway-credits": (402, 2021),
    "gateway-spend-limit": (429, 2045),
}


@pytest.fixture
def scripted(faulty: ServerProcess) -> Iterator[ServerProcess]:
    """The server with the backend `scripted`, after a reset of all faults."""
    assert control(faulty, "reset", None).status_code == 200
    yield faulty


@pytest.fixture(scope="module")
def with_token() -> Iterator[ServerProcess]:
    with server_process("--backend", "scripted", "--api-token", "good") as running:
        yield running


@pytest.fixture(scope="module")
def with_neurons() -> Iterator[ServerProcess]:
    with server_process("--backend", "scripted", "--daily-neurons", "1") as running:
        yield running


def control(server: ServerProcess, path: str, body: Any, token: str = "x") -> httpx.Response:
    headers = {"authorization": f"Bearer {token}"}
    return httpx.post(f"{server.root}/_emulator/{path}", json=body, headers=headers)


def run(
    server: ServerProcess, headers: dict[str, str] | None = None, body: Any = PROMPT
) -> httpx.Response:
    return httpx.post(server.run_url(), json=body, headers=headers)


def code(response: httpx.Response) -> int:
    found: int = response.json()["errors"][0]["code"]
    return found


def mistakes(response: httpx.Response) -> list[str]:
    assert response.status_code == 400
    return [entry["message"] for entry in response.json()["errors"]]


@pytest.mark.parametrize("fault", ERRORS)
def test_bindings_and_the_gateway_get_a_bare_error(scripted: ServerProcess, fault: str) -> None:
    headers = {"x-emulator-fault": fault}
    gateway = f"/v1/{ACCOUNT_ID}/gw/workers-ai/{INT8}"
    for path, more in ((gateway, {}), ("/run?version=3", BINDING)):
        response = httpx.post(scripted.root + path, json={"inputs": {}}, headers=headers | more)
        status, code = ERRORS[fault]
        assert response.status_code == status
        assert (response.json()["internalCode"], response.json()["httpCode"]) == (code, status)
        assert response.headers["x-emulator-fault"] == fault


def test_openai_endpoints_get_an_error_in_the_envelope(scripted: ServerProcess) -> None:
    url = f"{scripted.base_url}/accounts/{ACCOUNT_ID}/ai/v1/chat/completions"
    response = httpx.post(url, json={"model": INT8}, headers={"x-emulator-fault": "rate-limit"})
    assert (response.status_code, code(response)) == (429, 3021)


def test_the_auth_fault_is_10000_or_the_error_of_the_gateway(scripted: ServerProcess) -> None:
    assert run(scripted, {"authorization": "Bearer fault:auth"}).text == (
        '{"result":null,"success":false,"errors":'
        '[{"code":10000,"message":"Authentication error"}],"messages":[]}'
    )
    url = f"{scripted.root}/v1/{ACCOUNT_ID}/gw/workers-ai/{INT8}"
    response = httpx.post(url, headers={"cf-aig-authorization": "Bearer fault:auth"})
    assert (response.status_code, response.json()["error"][0]["code"]) == (401, 2009)


def test_a_rule_applies_to_bindings(scripted: ServerProcess) -> None:
    control(scripted, "faults", {"fault": "capacity", "times": 1})
    body = {"inputs": PROMPT}
    responses = [
        httpx.post(f"{scripted.root}/run?version=3", json=body, headers=BINDING) for _ in range(2)
    ]
    assert [response.status_code for response in responses] == [429, 200]


@pytest.mark.parametrize("fault", ["stall", "cut-mid-event", "cut-mid-utf8", "no-done"])
def test_a_stream_fault_does_not_change_a_json_response(
    scripted: ServerProcess, fault: str
) -> None:
    response = run(scripted, {"x-emulator-fault": fault})
    assert response.json()["result"]["response"]
    assert "x-emulator-fault" not in response.headers


@pytest.mark.parametrize("headers", [{}, {"x-emulator-fault": "retired"}])
def test_a_fault_comes_before_authorization_and_validation(
    scripted: ServerProcess, headers: dict[str, str]
) -> None:
    control(scripted, "faults", {"fault": "capacity"})
    response = run(scripted, {"authorization": "nonsense", **headers}, "no object")
    assert code(response) == (5028 if headers else 3040)


@pytest.mark.parametrize(
    "headers", [{"x-emulator-fault": "capasity"}, {"authorization": "Bearer fault:capasity"}]
)
def test_an_unknown_fault_is_refused_with_a_list_of_all_names(
    scripted: ServerProcess, headers: dict[str, str]
) -> None:
    response = run(scripted, headers)
    (message,) = mistakes(response)
    assert code(response) == 3003
    assert 'not "capasity"' in message
    names = [*ERRORS, "auth", "no-done", "cut-mid-event", "cut-mid-utf8", "stall"]
    names += ["slow-first-token", "json-instead-of-stream", "double-done"]
    assert "did you mean `capacity`?" in message
    assert all(re.search(rf"[ ,]{name}[ ,]", message) for name in names)


def test_rules_are_listed_with_their_remaining_times(scripted: ServerProcess) -> None:
    first = {"fault": "capacity", "times": 2, "model": "*-int8"}
    control(scripted, "faults", first)
    added = control(scripted, "faults", [{"fault": "internal", "account": OTHER_ACCOUNT}])
    run(scripted)
    shown = httpx.get(f"{scripted.root}/_emulator/faults").json()["faults"]
    assert added.json()["faults"][0] == first
    assert shown == [{**first, "times": 1}, {"fault": "internal", "account": OTHER_ACCOUNT}]


def test_every_mistake_in_a_rule_is_an_entry_of_the_error(scripted: ServerProcess) -> None:
    body = [{"fault": "capasity", "times": 0}, {"fault": "capacity", "modle": "x"}]
    lines = mistakes(control(scripted, "faults", body))
    keys = [re.findall("`(.+?)`", line)[0] for line in lines]
    assert keys == ["fault", "times", "modle"]
    assert httpx.get(f"{scripted.root}/_emulator/faults").json() == {"faults": []}


@pytest.mark.parametrize("path", ["faults", "script"])
@pytest.mark.parametrize("content", [b"", b"{", b"\xff"])
def test_a_body_that_is_no_json_is_refused(
    scripted: ServerProcess, path: str, content: bytes
) -> None:
    response = httpx.post(f"{scripted.root}/_emulator/{path}", content=content)
    assert (response.status_code, code(response)) == (400, 3003)


def test_the_script_is_replaced_until_the_reset(scripted: ServerProcess) -> None:
    initial = run(scripted).json()["result"]["response"]
    assert control(scripted, "script", [{"answer": "Other."}]).json() == {"rules": 1}
    assert run(scripted).json()["result"]["response"] == "Other."
    lines = mistakes(control(scripted, "script", [{"anwser": "x"}, {"answer": 1}]))
    assert lines == [
        "rule 1: unknown key `anwser`; did you mean `answer`?",
        "rule 2: `answer` takes a text, not 1",
    ]
    assert run(scripted).json()["result"]["response"] == "Other."
    control(scripted, "reset", None)
    assert run(scripted).json()["result"]["response"] == initial


def test_a_token_that_requests_a_fault_does_not_authorize(with_token: ServerProcess) -> None:
    assert code(run(with_token, {"authorization": "Bearer fault:capacity"})) == 3040
    for fault in (
        "no-done",
        "double-done",
        "json-instead-of-stream",
        "slow-first-token;seconds=0.01",
    ):
        response = run(with_token, {"authorization": f"Bearer fault:{fault}"}, STREAM)
        assert (response.status_code, code(response)) == (401, 10000)
    response = run(
        with_token, {"authorization": "Bearer good", "x-emulator-fault": "no-done"}, STREAM
    )
    assert response.text.startswith("data: ") and "[DONE]" not in response.text


def test_control_endpoints_require_the_token(with_token: ServerProcess) -> None:
    rule = {"fault": "capacity", "times": 1}
    for path in ("faults", "script", "reset"):
        assert code(control(with_token, path, rule, token="bad")) == 10000
    assert code(httpx.get(f"{with_token.root}/_emulator/neurons")) == 9106
    assert control(with_token, "faults", rule, token="good").status_code == 200
    assert control(with_token, "reset", None, token="good").status_code == 200


@pytest.mark.parametrize("fault", ["cut-mid-event", "cut-mid-utf8", "stall"])
def test_a_broken_stream_is_one_line_in_the_log(scripted: ServerProcess, fault: str) -> None:
    start = len(scripted.log)
    headers = {"x-emulator-fault": fault}
    with httpx.stream("POST", scripted.run_url(), json=STREAM, headers=headers) as response:
        next(response.iter_bytes())
    wait_until(lambda: len(scripted.log) > start)
    run(scripted, body="no object, whose log line comes last")
    wait_until(lambda: " 400, " in scripted.log[-1])
    (line, _) = scripted.log[start:]
    assert f" 200, fault {fault}, " in line and " INFO " in line


def test_an_account_that_has_used_its_neurons_is_refused(with_neurons: ServerProcess) -> None:
    control(with_neurons, "reset", None)
    body = {"prompt": "Hi", "stream": True}
    assert httpx.post(with_neurons.run_url(FP16), json=body).text.endswith("data: [DONE]\n\n")
    neurons = (1 * 50_505 + 8 * 606_061) / 1e6  # 1 prompt token, 8 completion tokens
    shown = httpx.get(f"{with_neurons.root}/_emulator/neurons").json()
    assert shown == {"daily_neurons": 1, "spent": {ACCOUNT_ID: neurons}}
    refused = run(with_neurons)
    assert (refused.status_code, code(refused)) == (429, 4006)
    assert "your daily free allocation of 10,000 neurons, please upgrade" in refused.text
    other = with_neurons.run_url().replace(ACCOUNT_ID, OTHER_ACCOUNT)
    assert httpx.post(other, json=PROMPT).status_code == 200
    control(with_neurons, "reset", None)
    assert run(with_neurons).status_code == 200


def test_all_bindings_share_one_account(with_neurons: ServerProcess) -> None:
    control(with_neurons, "reset", None)
    headers = {"cf-consn-model-id": FP16}
    responses = [
        httpx.post(f"{with_neurons.root}/run?version=3", json={"inputs": PROMPT}, headers=headers)
        for _ in range(2)
    ]
    assert [response.status_code for response in responses] == [200, 429]
    assert responses[1].json()["internalCode"] == 4006
    assert list(httpx.get(f"{with_neurons.root}/_emulator/neurons").json()["spent"]) == ["bindings"]


def test_refused_calls_use_no_neurons(with_neurons: ServerProcess) -> None:
    control(with_neurons, "reset", None)
    assert run(with_neurons, body={"prompt": ""}).status_code == 400
    assert run(with_neurons, {"x-emulator-fault": "capacity"}).status_code == 429
    assert httpx.get(f"{with_neurons.root}/_emulator/neurons").json()["spent"] == {}


def test_a_stalled_stream_does_not_delay_the_shutdown() -> None:
    with server_process("--backend", "scripted") as server:
        headers = {"x-emulator-fault": "stall"}
        with httpx.stream("POST", server.run_url(), json=STREAM, headers=headers) as response:
            parts = response.iter_bytes()
            next(parts)
            server.process.terminate()
            with pytest.raises(httpx.RemoteProtocolError):
                list(parts)
        server.process.wait(timeout=10)
    assert not [line for line in server.log if "Traceback" in line or "ERROR" in line], server.log
    assert server.process.returncode == 0
