"""A fixture for all clients."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.clients.refusing import RefusingServer, refusing_server


@pytest.fixture(scope="session")
def refusing() -> Iterator[RefusingServer]:
    """One server for all tests of 401 and 429."""
    with refusing_server() as server:
        yield server
