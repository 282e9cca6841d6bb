"""Tests decision models over HTTP: with the stand-in model for embeddings, and other backends."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.pages import blocks
from tests.server import ACCOUNT_ID, ServerProcess, server_process

COMMAND = (sys.executable, "-m", "workers_ai_emulator")
CLEF = "@cf/cloudflare/clef"
TEAMS = {
    "billing": "Payments, invoices, and refunds",
    "technical": "Outages, errors, and configuration",
    "sales": "Plans and upgrades",
}
TEAM = {
    "type": "choice",
    "instructions": "Which team should handle this request?",
    "criteria": TEAMS,
}
REFUND = {"type": "noul", "instructions": "Does the customer ask for a refund?"}


def body(state: Any, **questions: Any) -> dict[str, Any]:
    return {"model": "clef", "state": state, "questions": questions}


def answers(server: ServerProcess, state: Any, **questions: Any) -> dict[str, Any]:
    response = server.run(body(state, **questions), CLEF)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()["result"]["answers"]
    return found


# ── the backend `llama` ───────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("state", "team"),
    [
        ("Checkout has been failing for every customer for the last hour.", "technical"),
        ("Can I upgrade from the free plan?", "sales"),
        ("You charged my card twice, I want my money back.", "billing"),
        ({"subject": "Invoice", "text": "I was charged for two licences."}, "billing"),
    ],
)
def test_the_stand_in_model_chooses_the_option_that_fits_the_state(
    server: ServerProcess, state: Any, team: str
) -> None:
    answer = answers(server, state, team=TEAM)["team"]
    assert answer["choice"] == team
    assert sum(answer["probabilities"].values()) == pytest.approx(1, abs=2e-4)


def test_a_question_that_fits_the_state_is_more_probable(server: ServerProcess) -> None:
    fitting, other = (
        answers(server, state, refund=REFUND)["refund"]["noul"]
        for state in ("You charged my card twice, I want my money back.", "Nice weather today.")
    )
    assert other < 0.5 < fitting


def test_equal_requests_get_equal_bytes_alone_and_beside_others(server: ServerProcess) -> None:
    request = body("Checkout is down.", team=TEAM, refund=REFUND)
    alone = server.run(request, CLEF).content
    others = [body(f"Ticket {number}", team=TEAM) for number in range(12)]
    with ThreadPoolExecutor(8) as pool:
        contents = [*pool.map(lambda each: server.run(each, CLEF).content, [*others, request] * 2)]
    assert contents[12] == contents[25] == alone


def test_the_headers_name_the_weights_and_the_cost(server: ServerProcess) -> None:
    response = server.run(body("Checkout is down.", team=TEAM), CLEF)
    num_tokens = response.json()["result"]["usage"]["input_tokens"]
    assert response.headers["x-emulator-model"] == "all-MiniLM-L6-v2.F16"
    neurons = num_tokens * 0.24 / 0.011 / 1000
    assert float(response.headers["cf-ai-neurons"]) == pytest.approx(neurons, abs=0.01)
    rows = httpx.get(f"{server.root}/_emulator/requests?limit=1").json()["requests"]
    entry = httpx.get(f"{server.root}/_emulator/requests/{rows[0]['id']}").json()
    assert entry["outcome"] == "ok" and "Checkout is down." in json.dumps(entry["prompt"])


def test_a_request_without_its_own_task_is_refused(server: ServerProcess) -> None:
    for inputs in ({"prompt": "Hi"}, {"messages": [{"role": "user", "content": "Hi"}]}):
        response = server.run(inputs, CLEF)
        assert (response.status_code, response.json()["errors"][0]["code"]) == (400, 5006)
    url = f"{server.base_url}/accounts/{ACCOUNT_ID}/ai/v1/embeddings"
    response = server.post(url, {"model": CLEF, "input": "Hi"})
    assert response.json()["errors"][0]["code"] == 5006


def test_the_request_of_the_page_gets_an_answer_of_the_same_form(server: ServerProcess) -> None:
    (command, *_), (response, *_) = blocks("decisions.md", "bash"), blocks("decisions.md", "json")
    request = json.loads(command.partition("-d '")[2].rstrip().removesuffix("'"))
    sent = server.run(request, CLEF).text
    assert re.sub(r"[\d.]+", "0", sent) == re.sub(r"[\d.]+", "0", response.strip())


@pytest.mark.parametrize("name", ["server", "scripted"])
def test_unusual_values_and_many_options_get_answers(
    name: str, request: pytest.FixtureRequest
) -> None:
    target: ServerProcess = request.getfixturevalue(name)
    many = {**TEAM, "criteria": {f"option {number}": None for number in range(255)}}
    deep: Any = 1
    for _ in range(90):
        deep = [deep]
    states: list[Any] = ["\ud83d", "", {"\ud83d": 1e300}, deep, []]
    for state in states:
        content = json.dumps(body(state, many=many, refund=REFUND)).encode()
        response = httpx.post(target.run_url(CLEF), content=content, timeout=60)
        assert response.status_code == 200, response.text
        assert len(response.json()["result"]["answers"]["many"]["probabilities"]) == 255


# ── other backends ────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("decisions")
    (folder / "rules.yaml").write_text(blocks("decisions.md", "yaml")[0], "utf-8")
    flags = ("--script", str(folder / "rules.yaml"), "--cassettes", str(folder))
    with server_process("--backend", "scripted", "--record-from", "scripted", *flags) as running:
        yield running


def test_the_rules_of_the_page_fix_answers(scripted: ServerProcess) -> None:
    severity = {"type": "score", "instructions": "How severe?", "criteria": ["low", "high"]}
    questions = {"urgent": REFUND, "team": TEAM, "severity": severity}
    found = answers(scripted, "Checkout has been failing.", **questions)
    assert found["urgent"]["noul"] == 0.97
    assert found["team"]["choice"] == "technical" and found["team"]["confidence"] == 1
    assert found["severity"]["score"] == 0.5
    response = scripted.run(body("My invoice is wrong.", team=TEAM), CLEF)
    assert (response.status_code, response.json()["errors"][0]["code"]) == (429, 3040)
    assert answers(scripted, "My invoice is wrong.", team=TEAM)["team"]["choice"] == "billing"


@pytest.mark.parametrize("state", ["My parcel is late.", {"text": "My parcel is late."}])
def test_the_rule_that_the_journal_shows_gives_the_same_answers(
    scripted: ServerProcess, state: Any
) -> None:
    questions = {"urgent": REFUND, "team": TEAM}
    found = answers(scripted, state, **questions)
    newest = httpx.get(f"{scripted.root}/_emulator/requests").json()["requests"][0]
    expected = state if isinstance(state, str) else json.dumps(state, separators=(",", ":"))
    assert newest["excerpt"] == expected
    entry = httpx.get(f"{scripted.root}/_emulator/requests/{newest['id']}").json()
    with server_process("--backend", "scripted") as other:
        assert httpx.post(f"{other.root}/_emulator/script", json=[entry["as_rule"]]).is_success
        again = answers(other, state, **questions)
    assert again["urgent"] == found["urgent"]
    assert again["team"]["choice"] == found["team"]["choice"]
    assert again["team"]["probabilities"] == found["team"]["probabilities"]


def test_a_decision_is_recorded_and_replayed(scripted: ServerProcess) -> None:
    request = body("Something else.", team=TEAM)
    recorded, replayed = (
        httpx.post(
            scripted.run_url(CLEF),
            json=request,
            headers={"authorization": "Bearer x", "x-emulator-backend": backend},
        )
        for backend in ("record", "replay")
    )
    assert recorded.status_code == 200 and replayed.content == recorded.content


def test_a_fault_rule_applies_to_a_state(scripted: ServerProcess) -> None:
    url = f"{scripted.root}/_emulator/faults"
    httpx.post(url, json={"fault": "capacity", "contains": "broken", "times": 1})
    statuses = [
        scripted.run(body(f"It is {state}.", team=TEAM), CLEF).status_code
        for state in ("fine", "broken", "broken")
    ]
    assert statuses == [200, 429, 200]


def test_models_show_names_the_stand_in_model(tmp_path: Path) -> None:
    shown = subprocess.run(
        [*COMMAND, "models", "show", CLEF, "--models-dir", str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "no repository; until then the stand-in model as F16" in shown
