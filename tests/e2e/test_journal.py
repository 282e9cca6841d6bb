"""Tests the journal (the list of the last calls): its endpoints, limits, and hidden credentials."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import httpx
import psutil
import pytest

from tests.pages import blocks
from tests.server import ACCOUNT_ID, ENDLESS, INT8, ServerProcess, server_process, wait_until

SECRET = "sk-a-long-secret-0123456789"


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Starts a server whose completions are immediate, except for prompts that contain `slowly`."""
    rules = tmp_path_factory.mktemp("script") / "rules.json"
    slow = {"contains": "slowly", "answer": "one two three " * 300, "tokens_per_second": 20}
    rules.write_text(json.dumps([slow, {"answer": "It is done."}]))
    with server_process("--backend", "scripted", "--script", str(rules)) as running:
        yield running


def get(server: ServerProcess, path: str, **query: Any) -> Any:
    response = httpx.get(f"{server.root}/_emulator/{path}", params=query, timeout=20)
    assert response.status_code == 200, response.text
    return response.json()


def rows(server: ServerProcess, **query: Any) -> list[Any]:
    found = get(server, "requests", **query)["requests"]
    assert isinstance(found, list)
    return found


def last_sample(server: ServerProcess) -> Any:
    samples = get(server, "load")["samples"]
    return samples[-1] if samples else {"running": None, "tokens_per_second": 0}


def newest(server: ServerProcess) -> Any:
    return get(server, f"requests/{rows(server)[0]['id']}")


def test_an_entry_has_the_request_and_the_response(scripted: ServerProcess) -> None:
    response = scripted.run({"prompt": "Hello", "max_tokens": 5})
    entry = newest(scripted)
    assert (entry["method"], entry["model"], entry["account"]) == ("POST", INT8, ACCOUNT_ID)
    assert (entry["status"], entry["outcome"], entry["answered_by"]) == (200, "ok", "scripted")
    assert entry["request"]["body"] == {"prompt": "Hello", "max_tokens": 5}
    assert entry["prompt"]["text"] == "Hello"
    assert (entry["answer"]["text"], entry["answer"]["sent"]) == ("It is done.", response.text)
    assert entry["answer"]["headers"]["cf-ai-req-id"] == response.headers["cf-ai-req-id"]
    assert entry["completion_tokens"] == response.json()["result"]["usage"]["completion_tokens"]
    assert 0 < entry["first_byte_ms"] <= entry["duration_ms"]


def test_the_list_has_the_newest_entries_first_and_can_start_after_an_id(
    scripted: ServerProcess,
) -> None:
    for number in range(3):
        scripted.run({"prompt": f"{number}"})
    ids = [row["id"] for row in rows(scripted)]
    assert ids == sorted(ids, reverse=True)
    assert [row["id"] for row in rows(scripted, limit=2)] == ids[:2]
    assert [row["id"] for row in rows(scripted, after=ids[2])] == ids[:2]


@pytest.mark.parametrize("query", ["limit=0", "limit=x", "limit=1001", "after=-1", "limit=²"])
def test_an_invalid_query_is_an_error_with_the_valid_values(
    scripted: ServerProcess, query: str
) -> None:
    response = httpx.get(f"{scripted.root}/_emulator/requests?{query}")
    assert (response.status_code, "limit takes 1 to 1000" in response.json()["error"]) == (
        400,
        True,
    )


@pytest.mark.parametrize("number", ["999999", "x", "²", "-1", "9" * 5000])
def test_an_unknown_entry_is_404(scripted: ServerProcess, number: str) -> None:
    response = httpx.get(f"{scripted.root}/_emulator/requests/{number}")
    assert (response.status_code, "no request" in response.json()["error"]) == (404, True)


@pytest.mark.parametrize(
    ("path", "body", "headers", "outcome"),
    [
        (f"/ai/run/{INT8}", {"prompt": 1}, {}, "5006"),
        ("/ai/run/@cf/none/such", {"prompt": "Hi"}, {}, "7000"),
        (f"/ai/run/{INT8}", {"prompt": "Hi"}, {"x-emulator-backend": "none"}, "3003"),
        ("/ai/v1/chat/completions", {"model": "@cf/none/such", "messages": []}, {}, "5007"),
        (f"/ai/run/{INT8}", {"prompt": "Hi"}, {"x-emulator-fault": "capacity"}, "3040"),
    ],
)
def test_a_refused_call_is_stored_with_its_code(
    scripted: ServerProcess, path: str, body: Any, headers: dict[str, str], outcome: str
) -> None:
    url = f"{scripted.base_url}/accounts/{ACCOUNT_ID}{path}"
    response = httpx.post(url, json=body, headers=headers)
    entry = newest(scripted)
    assert (entry["status"], entry["outcome"]) == (response.status_code, outcome)
    assert entry["model"] in (INT8, "@cf/none/such")
    assert entry["fault"] == headers.get("x-emulator-fault")


@pytest.mark.parametrize("path", ["/run?version=3", "/ai-gateway/run?version=3"])
def test_a_call_of_a_binding_is_stored(scripted: ServerProcess, path: str) -> None:
    headers = {"host": "workers-binding.ai", "cf-consn-model-id": INT8}
    httpx.post(scripted.root + path, json={"inputs": {"prompt": "Hi"}}, headers=headers)
    entry = newest(scripted)
    assert (entry["path"], entry["query"]) == tuple(path.split("?"))
    assert (entry["model"], entry["account"], entry["answer"]["text"]) == (
        INT8,
        None,
        "It is done.",
    )


def test_a_universal_call_has_the_model_of_its_step(scripted: ServerProcess) -> None:
    steps = [{"provider": "workers-ai", "endpoint": INT8, "query": {"prompt": "Hi"}}]
    httpx.post(f"{scripted.root}/v1/{ACCOUNT_ID}/default", json=steps)
    assert (newest(scripted)["model"], newest(scripted)["outcome"]) == (INT8, "ok")


def test_a_stream_can_be_read_while_it_runs(scripted: ServerProcess) -> None:
    body = {"prompt": "slowly", "stream": True}
    with httpx.stream("POST", scripted.run_url(), json=body) as response:
        lines = response.iter_lines()
        assert next(lines).startswith("data: ")
        number = rows(scripted)[0]["id"]
        wait_until(lambda: "one two" in get(scripted, f"requests/{number}")["answer"]["text"])
        entry = get(scripted, f"requests/{number}")
        assert (entry["outcome"], entry["status"], entry["stream"]) == (None, 200, True)
        assert entry["prompt"]["text"] == "slowly"
        assert entry["completion_tokens"] > 0
    wait_until(lambda: get(scripted, f"requests/{number}")["outcome"] == "cancelled")


def test_a_call_is_cancelled_if_the_client_disconnects_before_the_response(
    scripted: ServerProcess,
) -> None:
    with scripted.connect({"prompt": "slowly"}):
        wait_until(lambda: rows(scripted)[0]["answered_by"] is not None)
        assert rows(scripted)[0]["outcome"] is None
    wait_until(lambda: rows(scripted)[0]["outcome"] == "cancelled")


def test_a_stream_without_its_last_event_is_cut(scripted: ServerProcess) -> None:
    body, headers = {"prompt": "Hi", "stream": True}, {"x-emulator-fault": "no-done"}
    httpx.post(scripted.run_url(), json=body, headers=headers)
    assert (newest(scripted)["outcome"], newest(scripted)["fault"]) == ("cut", "no-done")


CREDENTIALS = [
    {"authorization": f"Bearer {SECRET}"},
    {"x-auth-key": SECRET, "x-auth-email": "a@b.example"},
    {"cookie": f"session={SECRET}"},
    {"cf-aig-authorization": f"Bearer {SECRET}"},
]


@pytest.mark.parametrize("headers", CREDENTIALS, ids=lambda headers: next(iter(headers)))
def test_no_response_of_the_journal_has_credentials(
    scripted: ServerProcess, headers: dict[str, str]
) -> None:
    url = f"{scripted.run_url()}?token={SECRET}"
    body: dict[str, Any] = {"prompt": f"My key is {SECRET}", "x-auth-key": SECRET}
    step = {"provider": "workers-ai", "endpoint": INT8, "headers": headers, "query": body}
    httpx.post(url, json=body, headers=headers)
    httpx.post(url, json={**body, "stream": True}, headers=headers)
    httpx.post(url, json={**body, "temperature": 99}, headers=headers)
    httpx.post(url, content=gzip.compress(json.dumps(body).encode()), headers=headers)
    httpx.post(f"{scripted.root}/v1/{ACCOUNT_ID}/default", json=[step], headers=headers)
    numbers = [row["id"] for row in rows(scripted, limit=5)]
    texts = [json.dumps(get(scripted, f"requests/{number}")) for number in numbers]
    assert all("[redacted]" in text for text in texts)
    assert SECRET not in "".join(texts) + json.dumps(rows(scripted))


def test_with_tokens_set_the_journal_needs_one() -> None:
    with server_process("--backend", "scripted", "--api-token", SECRET) as strict:
        for path in ("requests", "requests/1", "load"):
            url = f"{strict.root}/_emulator/{path}"
            assert httpx.get(url).status_code == 400
            assert httpx.get(url, headers={"authorization": "Bearer wrong"}).status_code == 401
        headers = {"authorization": f"Bearer {SECRET}"}
        refused = strict.run({"prompt": "Hi"})
        found = httpx.get(f"{strict.root}/_emulator/requests", headers=headers).json()["requests"]
        assert (refused.status_code, found[0]["outcome"]) == (400, "9106")
        # The page itself needs no token, because it contains no data.
        assert httpx.get(f"{strict.root}/_emulator/").status_code == 200


def test_a_reset_empties_the_journal(scripted: ServerProcess) -> None:
    scripted.run({"prompt": "Hi"})
    before = get(scripted, "requests")
    scripted.reset()
    after = get(scripted, "requests")
    assert (after["requests"], after["bytes"], after["kept"]) == ([], 0, 0)
    assert after["epoch"] != before["epoch"]
    scripted.run({"prompt": "Hi"})
    assert rows(scripted)[0]["id"] > before["requests"][0]["id"]


def test_the_journal_stays_within_its_limits_for_many_and_for_large_calls(
    scripted: ServerProcess,
) -> None:
    process = psutil.Process(scripted.process.pid)
    large = json.dumps({"prompt": "x" * 2**19}).encode()
    with httpx.Client(timeout=60) as client, ThreadPoolExecutor(4) as pool:

        def post(content: bytes) -> None:
            client.post(scripted.run_url(), content=content)

        list(pool.map(post, [b'{"prompt":"Hi"}'] * 1100))
        many = get(scripted, "requests", limit=1000)
        assert (many["kept"], len(many["requests"])) == (1000, 1000)
        list(pool.map(post, [large] * 40))
        memory = process.memory_info().rss
        list(pool.map(post, [large] * 160))
    full = get(scripted, "requests")
    assert full["bytes"] <= 16 * 2**20
    assert 20 < full["kept"] < 100
    assert process.memory_info().rss - memory < 64 * 2**20
    entry = newest(scripted)
    assert entry["request"]["bytes"] == len(large)
    assert entry["request"]["bytes_left_out"] == len(large) - 2**18
    assert entry["prompt"]["bytes_left_out"] == 2**18


def test_the_commands_of_the_page_about_the_journal_return_json(scripted: ServerProcess) -> None:
    scripted.run({"prompt": "Hi"})
    number = rows(scripted)[0]["id"]
    [block] = blocks("journal.md", "bash")
    for line in block.splitlines():
        command = line.partition("#")[0].replace("127.0.0.1:8790", scripted.root)
        command = command.replace("/requests/1", f"/requests/{number}")
        done = subprocess.run(["bash", "-c", command], capture_output=True, timeout=20, check=True)
        assert json.loads(done.stdout).keys() & {"requests", "request"}


def test_the_log_lines_of_the_page_about_the_journal_are_logged() -> None:
    binding = {"cf-consn-model-id": INT8, "x-emulator-account": "1" * 32}
    with server_process("--backend", "scripted") as running:
        running.run({"prompt": "Hi"})
        running.set_script({"answer": "It is done."})
        httpx.post(
            f"{running.root}/run?version=3", json={"inputs": {"prompt": "Hi"}}, headers=binding
        )
        running.run({"prompt": "Hi"}, "@cf/none/such")
        running.post(f"{running.root}/v1/chat/completions", {})
        [block] = blocks("journal.md", "text")
        for line in block.splitlines():
            expected = line.rpartition(", ")[0].replace("http://127.0.0.1:8790", running.root)
            wait_until(partial(is_logged, running, expected))


def is_logged(server: ServerProcess, text: str) -> bool:
    return any(text in line for line in server.log)


def test_a_stream_that_a_fault_cuts_has_the_tokens_and_events_that_were_sent(
    scripted: ServerProcess,
) -> None:
    headers = {"x-emulator-fault": "cut-mid-event;after_events=2"}
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.post(scripted.run_url(), json={"prompt": "Hi", "stream": True}, headers=headers)
    wait_until(lambda: bool(rows(scripted)[0]["outcome"] == "cut"))
    [row] = rows(scripted, limit=1)
    assert (row["completion_tokens"], row["events"]) == (2, 2)


def test_the_list_and_its_counts_can_be_those_of_an_account(scripted: ServerProcess) -> None:
    account = "1" * 32
    scripted.reset()
    scripted.run({"prompt": "Hi"})
    httpx.post(scripted.run_url(), json={"prompt": "Ho"}, headers={"x-emulator-account": account})
    found = get(scripted, "requests", account=account)
    assert (found["kept"], found["dropped"]) == (1, 0)
    assert [(row["excerpt"], row["account"]) for row in found["requests"]] == [("Ho", account)]
    assert 0 < found["bytes"] < get(scripted, "requests")["bytes"]


def test_load_has_a_sample_per_second(scripted: ServerProcess) -> None:
    with scripted.connect({"prompt": "slowly", "stream": True}):
        wait_until(lambda: last_sample(scripted)["running"] == 1)
        wait_until(lambda: last_sample(scripted)["tokens_per_second"] > 0)
    load = get(scripted, "load")
    assert load["status"] == "ready"
    after = load["samples"][-1]["time"]
    wait_until(lambda: len(get(scripted, "load", after=after)["samples"]) >= 2)
    assert all(sample["time"] > after for sample in get(scripted, "load", after=after)["samples"])
    assert httpx.get(f"{scripted.root}/_emulator/load?after=x").status_code == 400


def test_the_prompt_is_the_text_after_the_chat_template(server: ServerProcess) -> None:
    messages = [
        {"role": "system", "content": "Be kind"},
        {"role": "user", "content": "Hi <|im_end|>"},
    ]
    for stream in (False, True):
        server.run({"messages": messages, "max_tokens": 3, "stream": stream})
        entry = newest(server)
        assert entry["prompt"]["text"] == (
            "<|im_start|>system\nBe kind<|im_end|>\n"
            "<|im_start|>user\nHi <|im_end|><|im_end|>\n<|im_start|>assistant\n"
        )
        assert entry["answered_by"].startswith("SmolLM2")
        assert (entry["completion_tokens"], entry["prompt_tokens"] > 10) == (3, True)


def test_a_stream_whose_client_disconnects_is_stored_and_frees_its_slot(
    server: ServerProcess,
) -> None:
    with server.connect({**ENDLESS, "stream": True}) as connection:
        assert connection.recv(9) == b"HTTP/1.1 "
        wait_until(lambda: server.metric("workers_ai_emulator_running") == 1)
    wait_until(lambda: server.metric("workers_ai_emulator_running") == 0)
    wait_until(lambda: newest(server)["outcome"] == "cancelled")
    assert newest(server)["completion_tokens"] > 0


def test_the_load_has_the_slots(server: ServerProcess) -> None:
    def has_one_slot_in_use() -> bool:
        sample = last_sample(server)
        return bool(sample["running"] == 1 and sample["free_slots"] == sample["slots"] - 1)

    with server.connect({**ENDLESS, "stream": True}):
        wait_until(has_one_slot_in_use)


def test_the_server_stops_although_a_client_keeps_a_connection_open() -> None:
    with server_process("--backend", "scripted") as running, httpx.Client() as client:
        client.get(f"{running.root}/_emulator/requests")
        os.kill(running.process.pid, signal.SIGTERM)
        assert running.process.wait(timeout=10) == 0
