"""Fixtures with the servers under test: the emulator, or Cloudflare's service."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.snapshots import Target
from tests.server import (
    ACCOUNT_ID,
    CONTEXT_LENGTH,
    ENDLESS,
    INT8,
    ServerProcess,
    server_process,
    wait_until,
)

# With --target=cloudflare, tests with these fixtures are skipped: the service has no such settings,
# and its bindings can be called only from Workers.
EMULATOR_SERVERS = ("strict", "busy", "impatient", "binding", "faulty")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With --target=cloudflare, skips the tests that do not use the fixture `target`."""
    if config.getoption("--target") == "cloudflare":
        for item in items:
            if "target" not in getattr(item, "fixturenames", ()):
                item.add_marker(pytest.mark.skip(reason="tests the emulator only"))


@pytest.fixture(scope="session")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Starts a server that requires one of three tokens."""
    file: Path = tmp_path_factory.mktemp("tokens") / "tokens"
    file.write_text("from-file\n\n")
    flags = ["--api-token", "first", "--api-token", "second", "--api-token-file", str(file)]
    with server_process(*flags, "--parallel", "1", "--context-length", "512") as running:
        yield running


@pytest.fixture
def busy() -> Iterator[ServerProcess]:
    """Starts a server that refuses all requests: its only slot is busy, and it has no queue.

    Stops the server after the test, because its completion uses all cores.
    """
    flags = ["--parallel", "1", "--queue-size", "0", "--context-length", "4096"]
    body = {**ENDLESS, "max_tokens": 4000, "stream": True}
    with server_process(*flags) as running, running.connect(body):
        wait_until(lambda: running.metric("workers_ai_emulator_running") == 1)
        yield running


@pytest.fixture(scope="session")
def impatient() -> Iterator[ServerProcess]:
    """Starts a server whose request timeout is too short for any completion."""
    with server_process("--request-timeout", "0.05", "--context-length", "1024") as running:
        yield running


@pytest.fixture(scope="session")
def binding(server: ServerProcess) -> ServerProcess:
    """Returns the shared server, for snapshots of requests that a Worker's binding sends."""
    return server


@pytest.fixture(scope="session")
def faulty() -> Iterator[ServerProcess]:
    """Starts a server with the backend `scripted`, for tests of faults."""
    with server_process("--backend", "scripted") as running:
        yield running


@pytest.fixture
def target(request: pytest.FixtureRequest) -> Target:
    """Returns the server that the test names, or with --target=cloudflare the service."""
    if request.config.getoption("--target") == "cloudflare":
        if request.param in EMULATOR_SERVERS:
            pytest.skip("needs a setting of the emulator, or a binding")
        return Target(
            root="https://api.cloudflare.com",
            gateway_root="https://gateway.ai.cloudflare.com",
            account=os.environ["CLOUDFLARE_ACCOUNT_ID"],
            token=os.environ["CLOUDFLARE_API_TOKEN"],
            model=request.config.getoption("--model"),
        )
    server: ServerProcess = request.getfixturevalue(request.param)
    return Target(server.root, ACCOUNT_ID, "x", INT8, server.root, CONTEXT_LENGTH)
