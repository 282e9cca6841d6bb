"""Tests a Worker's AI binding and its SDKs in tools that run Workers locally, without a network."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from workers_ai_emulator.models.catalog import CATALOG

from tests.server import ServerProcess, wait_until
from tests.workers.project import URL, Project, Worker
from tests.workers.tools import (
    SDKS,
    TOOLS,
    VITESTS,
    WRANGLER_4,
    Tool,
    with_api_url,
    with_miniflare,
)

pytestmark = pytest.mark.node

UUID = "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"


# CANCELLING: tools in which a Worker can cancel a stream. SERVING: those that also serve the
# Worker, so that a client can disconnect.
CANCELLING = [tool for tool in TOOLS if not tool.reads_to_the_end]
SERVING = [tool for tool in CANCELLING if tool.packages not in VITESTS]
# Tools whose binding is created by our plugin for Miniflare: under `exec`, or from `worker init`.
WITH_PLUGIN = [t for t in TOOLS if t.packages is WRANGLER_4 and t.run is not with_miniflare]
WITHOUT_PLUGIN = [tool for tool in TOOLS if tool.run is with_miniflare]
# The calls of the Worker's path /native/not-emulated, and the names that errors give them.
NOT_EMULATED = {
    "toMarkdown": "toMarkdown()",
    "supported": "toMarkdown()",
    "websocket": "run() with the option websocket",
    "aiSearch": "aiSearch()",
    "autorag": "autorag().search()",
    "getLog": "gateway().getLog()",
}


@pytest.fixture(scope="module", params=TOOLS, ids=str)
def tool(request: pytest.FixtureRequest) -> Tool:
    chosen: Tool = request.param
    return chosen


@pytest.fixture(scope="module")
def num_cancelled_before(tool: Tool, server: ServerProcess) -> float:
    _, num_cancelled = counts(server)
    return num_cancelled


@pytest.fixture(scope="module")
def worker(
    tool: Tool,
    worker_module: Path,
    server: ServerProcess,
    num_cancelled_before: float,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Worker]:
    folder = tmp_path_factory.mktemp(str(tool))
    project = Project.create(folder, worker_module, tool.packages.node_modules, server)
    with tool.run(project) as running:
        yield running


@pytest.mark.documented
@pytest.mark.parametrize("sdk", ["native", *SDKS])
def test_a_stream_has_the_text_of_the_json_response(worker: Worker, sdk: str) -> None:
    whole = value_of(worker, f"/{sdk}/json")["result"]["response"]
    assert whole.strip()
    assert "".join(frame["response"] for frame in frames_of(worker, f"/{sdk}/stream")) == whole


@pytest.mark.documented
def test_the_binding_returns_the_result_of_the_api(worker: Worker, server: ServerProcess) -> None:
    messages = [{"role": "user", "content": "Tell me of a cat."}]
    response = server.run({"messages": messages, "max_tokens": 24, "temperature": 0})
    assert value_of(worker, "/native/json")["result"] == response.json()["result"]


@pytest.mark.documented
@pytest.mark.parametrize("sdk", ["native", "1.1.0", "1.2.2"])
def test_a_call_has_a_request_id(worker: Worker, sdk: str) -> None:
    assert re.fullmatch(UUID, value_of(worker, f"/{sdk}/json")["requestId"])


@pytest.mark.documented
def test_an_error_is_thrown_with_its_code(worker: Worker) -> None:
    assert text_of(worker, "/native/error").startswith("AiError: 5006: Error: ")


@pytest.mark.inferred
def test_a_fault_is_an_error_of_the_binding(tool: Tool, worker: Worker) -> None:
    skip_in_vitest(tool)
    errors = value_of(worker, "/native/faults")
    # wrangler 3 sends the binding's requests from node, whose error it then passes on.
    lost = ("Error: Network connection lost.", "InferenceUpstreamError: TypeError: fetch failed")
    assert errors["reset"].startswith(lost)
    assert errors["edge-error"].startswith("InferenceUpstreamError: <!DOCTYPE html>")
    assert errors["broken-json"].startswith("SyntaxError: ")
    assert errors["error;message=Own"] == "AiError: 3043: Own"


@pytest.mark.recorded
def test_a_limit_of_the_gateway_is_an_error_of_the_binding(worker: Worker) -> None:
    assert value_of(worker, "/native/faults-gateway") == {
        "gateway-rate-limit": "AiGatewayError: 2003: Rate limited",
        "gateway-credits": "AiGatewayError: 2021: Insufficient AI Gateway credits",
    }


@pytest.mark.inferred
def test_a_body_that_is_cut_is_an_error_of_the_binding(tool: Tool, worker: Worker) -> None:
    skip_in_vitest(tool)
    if tool.run is with_api_url:
        pytest.skip("wrangler 3 without exec does not end a response whose body is cut")
    errors = value_of(worker, "/native/faults-cut")
    assert errors == {"cut-body": "Error: Network connection lost."}


def skip_in_vitest(tool: Tool) -> None:
    if tool.packages in VITESTS:
        pytest.skip("a lost connection is also an uncaught error in vitest, which then fails")


@pytest.mark.documented
def test_the_models_are_listed(worker: Worker) -> None:
    assert value_of(worker, "/native/models") == list(CATALOG)[:50]  # the first page


@pytest.mark.documented
def test_the_gateway_s_url_points_to_the_server(worker: Worker, server: ServerProcess) -> None:
    assert text_of(worker, "/native/gateway").startswith(server.root)


@pytest.mark.inferred
@pytest.mark.parametrize("tool", WITH_PLUGIN, indirect=True, ids=str)
def test_a_method_that_is_not_emulated_throws_an_error_that_names_it(worker: Worker) -> None:
    outcomes = value_of(worker, "/native/not-emulated")
    assert outcomes.keys() == NOT_EMULATED.keys()
    for method, name in NOT_EMULATED.items():
        assert f" does not have env.AI.{name}, only " in outcomes[method]


@pytest.mark.inferred
@pytest.mark.parametrize("tool", WITHOUT_PLUGIN, indirect=True, ids=str)
def test_without_the_plugin_some_methods_that_are_not_emulated_have_other_outcomes(
    worker: Worker,
) -> None:
    outcomes = value_of(worker, "/native/not-emulated")
    others = {"supported": None, "websocket": 405, "aiSearch": "WebSocket connection failed."}
    assert outcomes | others == outcomes
    for method in NOT_EMULATED.keys() - others.keys():
        assert f" does not have env.AI.{NOT_EMULATED[method]}, only " in outcomes[method]


@pytest.mark.documented
@pytest.mark.parametrize("tool", CANCELLING, indirect=True, ids=str)
def test_a_stream_that_the_worker_cancels_frees_its_slot(
    num_cancelled_before: float, worker: Worker, server: ServerProcess
) -> None:
    assert text_of(worker, "/native/abort").startswith("data: {")
    wait_until(lambda: counts(server) == (0, num_cancelled_before + 1))


@pytest.mark.documented
@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("tool", SERVING, indirect=True, ids=str)
def test_a_stream_whose_client_disconnects_frees_its_slot(server: ServerProcess) -> None:
    with httpx.stream("GET", f"{URL}/native/endless", timeout=60) as response:
        chunks = response.iter_bytes()
        next(chunks)
        num_running, num_cancelled = counts(server)
        assert num_running == 1
    wait_until(lambda: counts(server) == (0, num_cancelled + 1))


# The streams of this test, with their heads, are shorter than the 4 KiB that workerd reads at once.
# The result therefore does not depend on how many events have arrived at a read.
@pytest.mark.inferred
@pytest.mark.parametrize("path", ["/native/reads", "/native/reads-long"])
@pytest.mark.parametrize("tool", CANCELLING, indirect=True, ids=str)
def test_each_read_of_a_binding_s_stream_returns_one_event(worker: Worker, path: str) -> None:
    reads = value_of(worker, path)
    assert cut_parts(reads) == []
    assert reads[-1] == "data: [DONE]\n\n"


@pytest.mark.inferred
@pytest.mark.parametrize("path", [f"/native/reads-{kind}" for kind in ("api", "gateway", "openai")])
def test_each_read_of_a_fetched_stream_returns_one_event(worker: Worker, path: str) -> None:
    reads = value_of(worker, path)
    assert cut_parts(reads) == []
    assert reads[-1] == "data: [DONE]\n\n"


@pytest.mark.inferred
@pytest.mark.parametrize("tool", CANCELLING, indirect=True, ids=str)
def test_of_many_events_without_pauses_at_most_one_is_cut(worker: Worker) -> None:
    reads = value_of(worker, "/native/reads-many")
    assert len(reads) > 240
    assert len(cut_parts(reads)) in (0, 2)


@pytest.mark.documented
def test_the_binding_works_outside_of_a_worker(
    worker_module: Path, server: ServerProcess, tmp_path: Path
) -> None:
    project = Project.create(tmp_path, worker_module, WRANGLER_4.node_modules, server)
    file = project.emulator("worker", "init").strip()
    result = json.loads(project.run("node", "platform.mjs", file))
    body = {"prompt": "A cat", "max_tokens": 8, "temperature": 0}
    assert result == server.run(body).json()["result"]


def counts(server: ServerProcess) -> tuple[float, float]:
    """Returns the number of running requests and of requests cancelled so far."""
    return (
        server.metric("workers_ai_emulator_running"),
        server.metric("workers_ai_emulator_requests_total", reason="cancelled"),
    )


def text_of(worker: Worker, path: str) -> str:
    response = worker.get(path)
    assert response.status == 200, f"{response}\n{worker.log}"
    return response.text


def value_of(worker: Worker, path: str) -> Any:
    return json.loads(text_of(worker, path))


def cut_parts(reads: list[str]) -> list[str]:
    """Returns those reads that do not contain exactly one complete event."""
    return [read for read in reads if not re.fullmatch(r"data: [^\n]+\n\n", read)]


def frames_of(worker: Worker, path: str) -> list[Any]:
    """Returns the JSON of each event of a stream. Fails if the stream does not end with [DONE]."""
    *events, end = re.findall(r"^data: (.*)$", text_of(worker, path), flags=re.M)
    assert end == "[DONE]"
    return [json.loads(event) for event in events]
