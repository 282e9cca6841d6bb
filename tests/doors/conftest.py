"""Everything in this folder is offline: the test, the server, and the tools that run a Worker."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import npm
from tests.doors.tools import bundle, install_all
from tests.offline import offline
from tests.server import ServerProcess, server_process


@pytest.fixture(scope="session")
def worker_module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Worker in one file. After this, nothing is missing that only the network has."""
    npm.require_node()
    install_all()
    module = tmp_path_factory.mktemp("bundle") / "worker.mjs"
    bundle(module)
    return module


@pytest.fixture(scope="module")
def alone(worker_module: Path) -> Iterator[None]:
    with offline():
        yield


@pytest.fixture(scope="module")
def server(alone: None) -> Iterator[ServerProcess]:
    """One for a module. It has a seed for the SDKs that pass on neither seed nor temperature."""
    with server_process("--seed", "1", "--parallel", "4", "--context-length", "2048") as running:
        yield running
