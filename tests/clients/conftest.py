"""Fixtures for all clients. A module's `CLIENTS` are what its tests of a `client` run with."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.clients.client import Client, Way
from tests.clients.refusing import RefusingServer, refusing_server


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "client" in metafunc.fixturenames:
        marks = {"python": [], "node": [pytest.mark.node]}
        clients = [pytest.param(c, marks=marks[c.language]) for c in metafunc.module.CLIENTS]
        metafunc.parametrize("client", clients, ids=str, indirect=True, scope="module")


@pytest.fixture(scope="module")
def client(request: pytest.FixtureRequest) -> Client:
    chosen: Client = request.param
    chosen.install()
    return chosen


@pytest.fixture(scope="module", params=["base_url", "exec"])
def way(request: pytest.FixtureRequest) -> Way:
    """How the client comes to the server: as it is told, or without knowing."""
    chosen: Way = request.param
    return chosen


@pytest.fixture(scope="session")
def refusing() -> Iterator[RefusingServer]:
    """One server for all tests of 401 and 429."""
    with refusing_server() as server:
        yield server
