"""Servers that give the answers which snapshots hold; with --target=cloudflare, the real one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.snapshots import Target
from tests.server import ACCOUNT_ID, ENDLESS, INT8, ServerProcess, server_process, wait_until

# The service has no such settings, or is not reached there.
EMULATOR_SERVERS = ("strict", "busy", "impatient", "binding", "faulty")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Only tests with a target can ask the service."""
    if config.getoption("--target") == "cloudflare":
        for item in items:
            if "target" not in getattr(item, "fixturenames", ()):
                item.add_marker(pytest.mark.skip(reason="is about the emulator only"))


@pytest.fixture(scope="session")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server that asks for a token."""
    file: Path = tmp_path_factory.mktemp("tokens") / "tokens"
    file.write_text("from-file\n\n")
    flags = ["--api-token", "first", "--api-token", "second", "--api-token-file", str(file)]
    with server_process(*flags, "--parallel", "1", "--context-length", "512") as running:
        yield running


@pytest.fixture(scope="session")
def busy() -> Iterator[ServerProcess]:
    """A server whose only slot is taken and where nobody may wait."""
    flags = ["--parallel", "1", "--queue-size", "0", "--context-length", "4096"]
    body = {**ENDLESS, "max_tokens": 4000, "stream": True}
    with server_process(*flags) as running, running.connect(body):
        wait_until(lambda: running.metric("workers_ai_emulator_running") == 1)
        yield running


@pytest.fixture(scope="session")
def impatient() -> Iterator[ServerProcess]:
    """A server where every request takes too long."""
    with server_process("--request-timeout", "0.05", "--context-length", "1024") as running:
        yield running


@pytest.fixture(scope="session")
def binding(server: ServerProcess) -> ServerProcess:
    """A server as a Worker's binding sees it: only Cloudflare's runtime reaches the real one."""
    return server


@pytest.fixture(scope="session")
def faulty() -> Iterator[ServerProcess]:
    """A server whose answers are wrong on purpose, and where words do not matter."""
    with server_process("--backend", "scripted") as running:
        yield running


@pytest.fixture
def target(request: pytest.FixtureRequest) -> Target:
    """The server that a snapshot names, given as the test's parameter."""
    if request.config.getoption("--target") == "cloudflare":
        if request.param in EMULATOR_SERVERS:
            pytest.skip("a setting of the emulator, or a binding's door")
        return Target(
            root="https://api.cloudflare.com",
            gateway_root="https://gateway.ai.cloudflare.com",
            account=os.environ["CLOUDFLARE_ACCOUNT_ID"],
            token=os.environ["CLOUDFLARE_API_TOKEN"],
            model=request.config.getoption("--model"),
        )
    server: ServerProcess = request.getfixturevalue(request.param)
    return Target(server.root, ACCOUNT_ID, "x", INT8, server.root)
