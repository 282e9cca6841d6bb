"""Tests that accounts on one emulator do not share rules, faults, journal entries and neurons."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.server import ACCOUNT_ID, INT8, ServerProcess, server_process

ONE, OTHER = "1" * 32, "2" * 32
BODY = {"prompt": "Hello"}


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder: Path = tmp_path_factory.mktemp("accounts")
    (folder / "rules.yaml").write_text("- answer: shared\n", "utf-8")
    flags = ["--backend", "scripted", "--script", str(folder / "rules.yaml")]
    with server_process(*flags) as server:
        yield server


@pytest.fixture
def emulator(scripted: ServerProcess) -> ServerProcess:
    scripted.reset()
    return scripted


def control(server: ServerProcess, method: str, path: str, body: object = None) -> httpx.Response:
    return httpx.request(method, f"{server.root}/_emulator/{path}", json=body)


def run(server: ServerProcess, account: str, **headers: str) -> httpx.Response:
    url = f"{server.root}/client/v4/accounts/{account}/ai/run/{INT8}"
    return httpx.post(url, json=BODY, headers=headers)


def completion(server: ServerProcess, account: str, **headers: str) -> str:
    text: str = run(server, account, **headers).json()["result"]["response"]
    return text


def test_the_script_of_an_account_answers_only_its_calls(emulator: ServerProcess) -> None:
    control(emulator, "POST", f"script?account={ONE}", [{"answer": "own"}]).raise_for_status()
    assert completion(emulator, ONE) == "own"
    assert completion(emulator, OTHER) == "shared"


def test_a_header_names_the_account_of_a_call(emulator: ServerProcess) -> None:
    control(emulator, "POST", f"script?account={ONE}", [{"answer": "own"}])
    assert completion(emulator, OTHER, **{"x-emulator-account": ONE}) == "own"


def test_a_prefix_of_the_path_names_the_account_of_calls_and_of_control_requests(
    emulator: ServerProcess,
) -> None:
    root = f"{emulator.root}/_emulator/accounts/{ONE}"
    httpx.post(f"{root}/_emulator/script", json=[{"answer": "own"}]).raise_for_status()
    url = f"{root}/client/v4/accounts/{OTHER}/ai/run/{INT8}"
    assert httpx.post(url, json=BODY).json()["result"]["response"] == "own"
    assert completion(emulator, OTHER) == "shared"


def ids(url: str, **headers: str) -> list[str]:
    return [account["id"] for account in httpx.get(url, headers=headers).json()["result"]]


def test_the_list_of_accounts_has_the_named_account_or_the_default_account(
    emulator: ServerProcess,
) -> None:
    url = "/client/v4/accounts"
    assert ids(emulator.root + url) == [ACCOUNT_ID]
    assert ids(emulator.root + url, **{"x-emulator-account": ONE}) == [ONE]
    assert ids(f"{emulator.root}/_emulator/accounts/{OTHER}{url}") == [OTHER]


def test_the_list_of_accounts_has_one_page_and_is_filtered_by_name(emulator: ServerProcess) -> None:
    url = f"{emulator.root}/client/v4/accounts"
    assert ids(f"{url}?name=workers-ai-emulator&page=1&per_page=50") == [ACCOUNT_ID]
    assert ids(f"{url}?page=2") == ids(f"{url}?name=other") == []


def test_a_binding_reaches_its_account_with_the_prefix(emulator: ServerProcess) -> None:
    control(emulator, "POST", f"script?account={ONE}", [{"answer": "own"}])
    headers = {
        "mf-url": "https://workers-binding.ai/run?version=3",
        "mf-binding": "AI",
        "mf-header-cf-consn-model-id": INT8,
        "mf-header-cf-consn-sdk-version": "2.0.0",
    }
    body = {"inputs": BODY, "options": {}}
    answers = [
        httpx.post(url, json=body, headers=headers).json()["response"]
        for url in (emulator.root, f"{emulator.root}/_emulator/accounts/{ONE}")
    ]
    assert answers == ["shared", "own"]


@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_the_faults_of_an_account_apply_only_to_its_calls(
    emulator: ServerProcess, method: str
) -> None:
    control(emulator, method, f"faults?account={ONE}", {"fault": "capacity"}).raise_for_status()
    assert run(emulator, OTHER).status_code == 200
    assert run(emulator, ONE).status_code == 429
    assert control(emulator, "GET", "faults").json() == {"faults": []}
    assert control(emulator, "DELETE", f"faults?account={ONE}").json() == {"faults": []}
    assert run(emulator, ONE).status_code == 200


def test_the_reset_of_an_account_leaves_other_accounts_as_they_are(emulator: ServerProcess) -> None:
    for account in (ONE, OTHER):
        control(emulator, "POST", f"script?account={account}", [{"answer": f"own {account[0]}"}])
        control(emulator, "POST", f"faults?account={account}", {"fault": "capacity", "times": 1})
        assert run(emulator, account).status_code == 429
        control(emulator, "POST", f"faults?account={account}", {"fault": "internal"})
    control(emulator, "POST", f"reset?account={ONE}").raise_for_status()
    assert completion(emulator, ONE) == "shared"
    assert run(emulator, OTHER).status_code == 500
    requests = control(emulator, "GET", "requests").json()["requests"]
    assert [row["account"] for row in requests] == [OTHER, ONE, OTHER]
    of_other = control(emulator, "GET", f"requests?account={OTHER}").json()["requests"]
    assert [row["status"] for row in of_other] == [500, 429]


def test_the_journal_names_the_rule_of_a_call(emulator: ServerProcess) -> None:
    rules = [{"contains": "Goodbye", "answer": "1"}, {"contains": "Hello", "answer": "2"}]
    control(emulator, "POST", f"script?account={ONE}", rules)
    run(emulator, ONE)
    [row] = control(emulator, "GET", f"requests?account={ONE}").json()["requests"]
    assert (row["rule"], row["unmatched"]) == (2, False)
    [unused] = control(emulator, "GET", f"unused?account={ONE}").json()["rules"]
    assert unused == {"number": 1, "rule": rules[0], "times_left": None, "used": 0}


def test_a_call_that_no_rule_answers_is_listed(emulator: ServerProcess) -> None:
    control(emulator, "PUT", f"script?account={ONE}", [{"contains": "Goodbye", "answer": "1"}])
    assert completion(emulator, ONE) == "This is a scripted answer to: Hello"
    found = control(emulator, "GET", f"unmatched?account={ONE}").json()
    [row] = found["requests"]
    assert (row["rule"], row["unmatched"], found["num_unmatched"]) == (None, True, 1)
    of_other = control(emulator, "GET", f"unmatched?account={OTHER}").json()
    assert of_other == {"num_unmatched": 0, "requests": []}


@pytest.mark.parametrize("account", ["x", "A" * 32, ""])
def test_an_account_that_is_no_account_id_is_refused(emulator: ServerProcess, account: str) -> None:
    for response in (
        control(emulator, "GET", f"script?account={account}"),
        control(emulator, "GET", f"accounts/{account or 'x'}/_emulator/script"),
    ):
        assert response.status_code == 400
        assert "32 hexadecimal digits" in response.json()["errors"][0]["message"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "reset"),
        ("PUT", "script"),
        ("DELETE", "script"),
        ("POST", "faults"),
        ("GET", "unmatched"),
        ("GET", "unused"),
        ("GET", "recordings"),
        ("GET", "requests"),
    ],
)
def test_a_misspelt_parameter_is_refused_and_changes_nothing(
    emulator: ServerProcess, method: str, path: str
) -> None:
    control(emulator, "POST", "script", "kept")
    response = control(emulator, method, f"{path}?acount={ONE}", "own")
    assert response.status_code == 400
    [error] = response.json()["errors"]
    assert error["code"] == 6007
    assert error["message"] == "unknown query parameter `acount`; did you mean `account`?"
    assert completion(emulator, ONE) == "kept"


def test_a_parameter_that_resembles_none_is_refused_with_the_known_ones(
    emulator: ServerProcess,
) -> None:
    response = control(emulator, "GET", "requests?x%0A=1&x%0A=2&limit=1&y=3")
    assert [error["message"] for error in response.json()["errors"]] == [
        "unknown query parameter `x `; it takes `account`, `limit`, `after`",
        "unknown query parameter `y`; it takes `account`, `limit`, `after`",
    ]


def test_a_strict_server_refuses_a_call_that_no_rule_answers() -> None:
    with server_process("--backend", "scripted", "--strict") as server:
        response = run(server, ONE)
        assert response.status_code == 500
        [error] = response.json()["errors"]
        assert error["code"] == 3905
        assert 'no rule of the script applies to "Hello"' in error["message"]
        assert len(control(server, "GET", "unmatched").json()["requests"]) == 1
