"""Tests batches with a running server: the wire format, and that no request is ever lost."""

from __future__ import annotations

import json
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.pages import blocks
from tests.server import ACCOUNT_ID, ENDLESS, INT8, ServerProcess, server_process, wait_until

LLAMA = "@cf/meta/llama-3.3-70b-instruct-fp8-fast"
BGE_M3 = "@cf/baai/bge-m3"
OTHER_ACCOUNT = "2" * 32
QUEUE = "?queueRequest=true"


def submit(server: ServerProcess, requests: list[Any], model: str = LLAMA) -> str:
    response = server.post(server.run_url(model) + QUEUE, {"requests": requests})
    assert response.status_code == 200, response.text
    request_id: str = response.json()["result"]["request_id"]
    return request_id


def poll(server: ServerProcess, request_id: str, model: str = LLAMA) -> dict[str, Any]:
    response = server.post(server.run_url(model) + QUEUE, {"request_id": request_id})
    assert response.status_code == 200, response.text
    result: dict[str, Any] = response.json()["result"]
    return result


def results(server: ServerProcess, request_id: str, model: str = LLAMA) -> list[dict[str, Any]]:
    wait_until(lambda: "responses" in poll(server, request_id, model), limit_s=100)
    responses: list[dict[str, Any]] = poll(server, request_id, model)["responses"]
    return responses


def without_times(*values: dict[str, Any]) -> list[dict[str, Any]]:
    return [value | {"created": 0} for value in values]


def test_a_batch_is_queued_and_its_results_have_the_documented_form(
    scripted: ServerProcess,
) -> None:
    requests = [{"prompt": "one", "external_reference": "first"}, {"prompt": "two"}]
    url = scripted.run_url(LLAMA)
    queued = scripted.post(url + QUEUE, {"requests": requests}).json()["result"]
    assert list(queued) == ["status", "request_id", "model"]
    assert (queued["status"], queued["model"]) == ("queued", LLAMA)
    first, second = results(scripted, queued["request_id"])
    assert list(first) == ["id", "result", "success", "external_reference"]
    assert (first["id"], first["success"], first["external_reference"]) == (0, True, "first")
    assert (second["id"], second["success"], second["external_reference"]) == (1, True, None)
    alone = [scripted.run(request, LLAMA).json()["result"] for request in requests]
    assert without_times(first["result"], second["result"]) == without_times(*alone)
    total = sum(result["usage"]["total_tokens"] for result in alone)
    usage = poll(scripted, queued["request_id"])["usage"]
    assert list(usage) == ["prompt_tokens", "completion_tokens", "total_tokens"]
    assert usage["total_tokens"] == total


@pytest.mark.parametrize(
    ("model", "request_", "key"),
    [
        (LLAMA, {"prompt": "hi", "stream": True}, "response"),
        ("@cf/openai/gpt-oss-20b", {"input": "hi"}, "output"),
        (
            "@cf/moonshotai/kimi-k2.6",
            {"messages": [{"role": "user", "content": "hi"}]},
            "choices",
        ),
        (
            "@cf/deepseek-ai/deepseek-v4-flash-0731",
            {"messages": [{"role": "user", "content": "hi"}]},
            "choices",
        ),
        ("@cf/qwen/qwen3-30b-a3b-fp8", {"prompt": "hi"}, "choices"),
        ("@cf/baai/bge-small-en-v1.5", {"text": ["hi", "ho"]}, "data"),
        (BGE_M3, {"text": "hi"}, "data"),
        (BGE_M3, {"query": "hi", "contexts": [{"text": "ho"}]}, "response"),
    ],
)
def test_each_result_is_that_of_the_model_alone(
    scripted: ServerProcess, model: str, request_: dict[str, Any], key: str
) -> None:
    (response,) = results(scripted, submit(scripted, [request_], model), model)
    assert response["success"] and key in response["result"]


def test_an_invalid_request_is_an_error_in_its_own_entry_only(scripted: ServerProcess) -> None:
    requests = [{"prompt": "one"}, {"temperature": 1}, {"prompt": "three"}]
    one, failed, three = results(scripted, submit(scripted, requests))
    assert (one["success"], three["success"]) == (True, True)
    assert (failed["success"], failed["result"]) == (False, {})
    assert failed["errors"][0]["code"] == 5006
    assert "required properties at '/' are 'prompt'" in failed["errors"][0]["message"]


@pytest.mark.parametrize(
    ("query", "body", "status", "text"),
    [
        (QUEUE, {"request_id": "nope"}, 400, "no batch of model @cf/baai/bge-m3 has the request"),
        ("", {"request_id": "nope"}, 400, "no batch of model @cf/baai/bge-m3 has the request_id"),
        ("", {"requests": [{"text": "a"}]}, 400, "needs queueRequest=true"),
        (QUEUE, {"text": "a"}, 400, 'queueRequest takes {"requests": [...]}'),
        (QUEUE, {"requests": []}, 400, "at least one request"),
        (QUEUE, {"requests": [1]}, 400, "requests[0] is not an object"),
        (QUEUE, {"requests": "a"}, 400, "at least one request"),
        (QUEUE, {"request_id": 5}, 400, "at least one request"),
        (QUEUE, [1], 400, "at least one request"),
        (QUEUE, {"requests": [{"text": 5}]}, 400, "Type mismatch of '/requests/0/text'"),
        (QUEUE, {"requests": [{"text": "a"}] * 10_001}, 400, "at most 10000 requests, not 10001"),
        (QUEUE, {"requests": [{"text": "a" * 10_000_000}]}, 413, "Request is too large"),
    ],
    ids=lambda value: str(value)[:80],
)
def test_an_invalid_batch_is_refused(
    scripted: ServerProcess, query: str, body: Any, status: int, text: str
) -> None:
    response = scripted.post(scripted.run_url(BGE_M3) + query, body)
    assert response.status_code == status
    assert text in response.json()["errors"][0]["message"]


@pytest.mark.parametrize(
    "requests", [[{"text": "a"}] * 10_000, [{"text": "a" * 9_999_900}]], ids=["many", "large"]
)
def test_a_batch_may_be_as_large_as_the_limits(
    scripted: ServerProcess, requests: list[Any]
) -> None:
    assert submit(scripted, requests, BGE_M3)
    scripted.reset()


def test_an_input_with_a_request_id_is_no_batch(scripted: ServerProcess) -> None:
    result = scripted.run({"text": "a", "request_id": "x"}, BGE_M3).json()["result"]
    assert result["shape"] == [1, 1024]


def test_a_model_without_batches_says_so(scripted: ServerProcess) -> None:
    response = scripted.post(scripted.run_url(INT8) + QUEUE, {"prompt": "a"})
    (error,) = response.json()["errors"]
    assert (response.status_code, error["code"]) == (400, 8007)
    assert "AiError: This model does not support request queuing" in error["message"]


def test_a_model_without_batches_validates_the_input_first(scripted: ServerProcess) -> None:
    response = scripted.post(scripted.run_url(INT8) + QUEUE, {"requests": [{"prompt": "a"}]})
    (error,) = response.json()["errors"]
    assert (response.status_code, error["code"]) == (400, 5006)
    assert "required properties at '/' are 'prompt'" in error["message"]


def test_a_binding_queues_with_an_option_and_polls_without_it(scripted: ServerProcess) -> None:
    headers = {"cf-consn-model-id": BGE_M3, "cf-consn-sdk-version": "2.0.0"}

    def run(inputs: Any, path: str = "/run?version=3", **options: Any) -> dict[str, Any]:
        body = {"inputs": inputs, "options": options}
        result: dict[str, Any] = scripted.post(scripted.root + path, body, headers).json()
        return result

    for path in ("/run?version=3", "/ai-gateway/run?version=3"):
        queued = run({"requests": [{"text": "a"}]}, path, queueRequest=True)
        assert queued["status"] == "queued"
        poll_inputs = {"request_id": queued["request_id"]}
        wait_until(lambda: "responses" in run(poll_inputs), limit_s=60)  # noqa: B023


def test_a_batch_can_be_queued_through_ai_gateway(scripted: ServerProcess) -> None:
    url = f"{scripted.root}/v1/{ACCOUNT_ID}/gw/workers-ai/{BGE_M3}{QUEUE}"
    response = scripted.post(url, {"requests": [{"text": "a"}]})
    request_id = response.json()["result"]["request_id"]
    assert len(response.headers["cf-aig-log-id"]) == 26
    assert results(scripted, request_id, BGE_M3)[0]["success"]


def test_another_account_and_another_model_do_not_find_the_batch(scripted: ServerProcess) -> None:
    request_id = submit(scripted, [{"text": "a"}], BGE_M3)
    url = scripted.run_url(BGE_M3).replace(ACCOUNT_ID, OTHER_ACCOUNT) + QUEUE
    assert scripted.post(url, {"request_id": request_id}).status_code == 400
    url = scripted.run_url("@cf/baai/bge-small-en-v1.5") + QUEUE
    assert scripted.post(url, {"request_id": request_id}).status_code == 400
    assert results(scripted, request_id, BGE_M3)


def test_a_reset_discards_the_batches_of_its_account(scripted: ServerProcess) -> None:
    request_id = submit(scripted, [{"text": "a"}], BGE_M3)
    reset = f"{scripted.root}/_emulator/reset"
    httpx.post(f"{reset}?account={OTHER_ACCOUNT}").raise_for_status()
    assert results(scripted, request_id, BGE_M3)
    httpx.post(f"{reset}?account={ACCOUNT_ID}").raise_for_status()
    url = scripted.run_url(BGE_M3) + QUEUE
    assert scripted.post(url, {"request_id": request_id}).status_code == 400


def test_a_batch_uses_neurons_until_the_limit_of_the_day_is_reached() -> None:
    body = {"prompt": "a b"}
    with server_process("--backend", "scripted", "--daily-neurons", "1") as server:
        url = server.run_url(LLAMA).replace(ACCOUNT_ID, OTHER_ACCOUNT)
        neurons = server.post(url, body).json()["result"]["usage"]["neurons"]
        request_id = submit(server, [body] * 2)
        # The second request of the batch is refused.
        wait_until(lambda: any(f"account {ACCOUNT_ID} has used its" in line for line in server.log))
        spent = httpx.get(f"{server.root}/_emulator/neurons").json()["spent"]
        polled = server.post(server.run_url(LLAMA) + QUEUE, {"request_id": request_id})
    assert neurons > 1 and spent[ACCOUNT_ID] == pytest.approx(neurons)
    assert polled.json()["errors"][0]["code"] == 4006  # as every other call of the account


def test_with_strict_an_unmatched_request_of_a_batch_is_listed(tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text("- contains: known\n  answer: OK\n", "utf-8")
    flags = ("--backend", "scripted", "--script", str(tmp_path / "rules.yaml"), "--strict")
    with server_process(*flags) as server:
        known, other = results(server, submit(server, [{"prompt": "known"}, {"prompt": "x"}]))
        listed = httpx.get(f"{server.root}/_emulator/unmatched").json()["requests"]
    assert known["success"] and other["errors"][0]["code"] == 3905
    assert listed


def test_without_strict_an_unmatched_request_of_a_batch_is_listed(
    scripted: ServerProcess,
) -> None:
    def unmatched() -> list[Any]:
        rows: list[Any] = httpx.get(f"{scripted.root}/_emulator/unmatched").json()["requests"]
        return rows

    scripted.set_script({"contains": "known", "answer": "OK"})
    assert results(scripted, submit(scripted, [{"prompt": "known"}]))[0]["success"]
    assert not unmatched()
    known, other = results(scripted, submit(scripted, [{"prompt": "known"}, {"prompt": "x"}]))
    assert (known["success"], other["success"]) == (True, True)
    assert unmatched()


@pytest.mark.parametrize("delay", [0, 0.1])
def test_an_error_of_capacity_in_a_script_is_the_result_at_once(
    scripted: ServerProcess, delay: float
) -> None:
    rule = {"fault": "capacity", "delay": delay, "times": 1}
    scripted.set_script(rule, {"answer": "OK", "delay": delay})
    failed, other = results(scripted, submit(scripted, [{"prompt": "one"}, {"prompt": "two"}]))
    assert (failed["errors"][0]["code"], other["result"]["response"]) == (3040, "OK")
    rules = httpx.get(f"{scripted.root}/_emulator/script").json()["rules"]
    assert [rule["used"] for rule in rules] == [1, 1]


def test_references_that_json_cannot_express_or_that_are_too_deep(scripted: ServerProcess) -> None:
    def queue(reference: str) -> httpx.Response:
        body = f'{{"requests": [{{"text": "a", "external_reference": {reference}}}]}}'
        url = scripted.run_url(BGE_M3) + QUEUE
        return httpx.post(url, content=body.ljust(20_000), headers={"authorization": "Bearer x"})

    request_id = queue("[1e999, -1e999, 1.5]").json()["result"]["request_id"]
    (response,) = results(scripted, request_id, BGE_M3)
    assert response["external_reference"] == [None, None, 1.5]
    assert queue("[" * 960 + "]" * 960).json()["errors"][0]["code"] == 3003
    deep = "[" * 200 + "]" * 200
    (response,) = results(scripted, queue(deep).json()["result"]["request_id"], BGE_M3)
    assert response["external_reference"] == json.loads(deep)


def test_forty_requests_that_are_queued_while_the_server_is_busy_are_all_answered(
    server: ServerProcess,
) -> None:
    requests = [
        {
            "prompt": f"Count from {number}.",
            "max_tokens": 4,
            "temperature": 0,
            "external_reference": str(number),
        }
        for number in range(40)
    ]
    with ExitStack() as stack:
        for _ in range(3):  # more than the duration of the first polls, on any machine
            stack.enter_context(server.connect({**ENDLESS, "stream": True}))
        wait_until(lambda: server.metric("workers_ai_emulator_running") == 3)
        request_id = submit(server, requests)
        never_polled = submit(server, requests[:1])
        assert poll(server, request_id)["status"] in ("queued", "running")  # too early
    responses = results(server, request_id)
    assert [response["external_reference"] for response in responses] == [
        str(number) for number in range(40)
    ]
    assert all(response["success"] for response in responses)
    alone = [server.run(request, LLAMA).json()["result"] for request in requests[::13]]
    queued = [response["result"] for response in responses[::13]]
    assert without_times(*queued) == without_times(*alone)
    assert results(server, request_id) == responses  # again, later
    late = results(server, never_polled)[0]["result"]
    assert without_times(late) == without_times(responses[0]["result"])


def test_a_client_that_disconnects_after_queueing_loses_nothing(scripted: ServerProcess) -> None:
    request_id = submit(scripted, [{"prompt": str(number)} for number in range(20)])
    with pytest.raises(httpx.TimeoutException):
        url = scripted.run_url(LLAMA) + QUEUE
        headers = {"x-emulator-fault": "slow-first-token;seconds=5"}
        body = {"request_id": request_id}
        httpx.post(url, json=body, headers=headers, timeout=0.5)
    assert len(results(scripted, request_id)) == 20


def test_a_recorded_batch_is_replayed_with_the_same_results(tmp_path: Path) -> None:
    requests = [{"prompt": "one"}, {"prompt": "two"}]
    folder = ("--cassettes", str(tmp_path))
    with server_process("--backend", "record", "--record-from", "scripted", *folder) as server:
        recorded = results(server, submit(server, requests))
    with server_process("--backend", "replay", *folder) as server:
        replayed = results(server, submit(server, requests))
    assert len(recorded) == 2 and replayed == recorded


def test_the_examples_of_the_page_work(scripted: ServerProcess) -> None:
    submit_command, poll_command = blocks("batch.md", "bash")

    def run(command: str) -> dict[str, Any]:
        command = command.replace("http://127.0.0.1:8790", scripted.root).replace(
            "curl ", "curl -s "
        )
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
        result: dict[str, Any] = json.loads(done.stdout)["result"]
        return result

    request_id = run(submit_command)["request_id"]
    poll_command = poll_command.replace("REQUEST_ID", request_id)
    wait_until(lambda: "responses" in run(poll_command), limit_s=60)
    assert run(poll_command)["responses"][0]["external_reference"] == "first"
