"""Fixtures for the tests of clients.

A test with the fixture `client` runs once for each client in the list `CLIENTS` of its module, or
in the arguments of its mark `clients`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.clients.client import Client, Way
from tests.clients.refusing import RefusingServer, refusing_server
from tests.server import ServerProcess, server_process
from tests.weather import SCRIPT


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "client" in metafunc.fixturenames:
        marks = {"python": [], "node": [pytest.mark.node]}
        mark = metafunc.definition.get_closest_marker("clients")
        chosen = mark.args if mark else metafunc.module.CLIENTS
        clients = [pytest.param(c, marks=marks[c.language]) for c in chosen]
        metafunc.parametrize("client", clients, ids=str, indirect=True, scope="module")


@pytest.fixture(scope="module")
def client(request: pytest.FixtureRequest) -> Client:
    chosen: Client = request.param
    chosen.install()
    return chosen


@pytest.fixture(scope="module", params=["base_url", "exec"])
def way(request: pytest.FixtureRequest) -> Way:
    """How requests reach the server: by a configured base URL, or redirected by `exec`."""
    chosen: Way = request.param
    return chosen


@pytest.fixture(scope="session")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Starts one server, without a model, for all tests whose programs ask for the weather."""
    script = tmp_path_factory.mktemp("script") / "script.json"
    script.write_text(json.dumps(SCRIPT), "utf-8")
    with server_process("--backend", "scripted", "--script", str(script)) as running:
        yield running


@pytest.fixture(scope="session")
def refusing() -> Iterator[RefusingServer]:
    """Starts one server for all tests that need the status 401 or 429."""
    with refusing_server() as server:
        yield server
