"""The servers that send the responses in snapshots: the emulator, or the real service."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.snapshots import Target
from tests.server import ACCOUNT_ID, ENDLESS, INT8, ServerProcess, server_process, wait_until

# The real service has no such settings, and its bindings can be called from Workers only.
EMULATOR_SERVERS = ("strict", "busy", "impatient", "binding", "faulty")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skips tests that send no requests to the service, with --target=cloudflare."""
    if config.getoption("--target") == "cloudflare":
        for item in items:
            if "target" not in getattr(item, "fixturenames", ()):
                item.add_marker(pytest.mark.skip(reason="tests the emulator only"))


@pytest.fixture(scope="session")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server that requires a token."""
    file: Path = tmp_path_factory.mktemp("tokens") / "tokens"
    file.write_text("from-file\n\n")
    flags = ["--api-token", "first", "--api-token", "second", "--api-token-file", str(file)]
    with server_process(*flags, "--parallel", "1", "--context-length", "512") as running:
        yield running


@pytest.fixture(scope="session")
def busy() -> Iterator[ServerProcess]:
    """A server whose only slot is taken and whose queue has no places."""
    flags = ["--parallel", "1", "--queue-size", "0", "--context-length", "4096"]
    body = {**ENDLESS, "max_tokens": 4000, "stream": True}
    with server_process(*flags) as running, running.connect(body):
        wait_until(lambda: running.metric("workers_ai_emulator_running") == 1)
        yield running


@pytest.fixture(scope="session")
def impatient() -> Iterator[ServerProcess]:
    """A server whose time limit is shorter than any completion takes."""
    with server_process("--request-timeout", "0.05", "--context-length", "1024") as running:
        yield running


@pytest.fixture(scope="session")
def binding(server: ServerProcess) -> ServerProcess:
    """The shared server, for snapshots of requests that a Worker's binding sends."""
    return server


@pytest.fixture(scope="session")
def faulty() -> Iterator[ServerProcess]:
    """A server with the scripted backend, for faults."""
    with server_process("--backend", "scripted") as running:
        yield running


@pytest.fixture
def target(request: pytest.FixtureRequest) -> Target:
    """The server whose fixture is the test's parameter, or the real service."""
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
    return Target(server.root, ACCOUNT_ID, "x", INT8, server.root)
