"""Fixtures for all tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.server import ServerProcess, server_process


@pytest.fixture(scope="session")
def server() -> Iterator[ServerProcess]:
    """One real server with the embedded model for all tests that only ask it."""
    with server_process("--parallel", "8", "--context-length", "2048") as running:
        yield running
