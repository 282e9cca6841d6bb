"""Defines fixtures with a server, and options for all tests; counts passed tests by provenance.

The provenance of a test says how the tested response is known: `recorded` from the service,
`documented`, or `inferred`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.server import CONTEXT_LENGTH, INT8, ServerProcess, server_process

PROVENANCES = ("recorded", "documented", "inferred")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("conformance")
    group.addoption("--target", choices=["emulator", "cloudflare"], default="emulator")
    group.addoption("--model", default=INT8, help="the model for --target=cloudflare")
    group.addoption(
        "--record", action="store_true", help="write snapshots; needs --target=cloudflare"
    )


def pytest_configure(config: pytest.Config) -> None:
    # A pytest that a test starts would take itself for a process of pytest-xdist.
    for name in [name for name in os.environ if name.startswith("PYTEST_XDIST_")]:
        del os.environ[name]
    # OpenMP's threads wait for each other without spinning, because the cores are shared with the
    # other process of pytest. OpenMP reads the variable when it is loaded.
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    # A project of a user does not have these plugins, whose imports take seconds.
    os.environ["PYTEST_ADDOPTS"] = "-p no:schemathesis -p no:hypothesispytest"
    if config.getoption("--record") and config.getoption("--target") != "cloudflare":
        raise pytest.UsageError("--record writes responses of the service: add --target=cloudflare")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints how many of the passed tests are marked `recorded`, `documented` and `inferred`."""
    passed = [report for report in terminalreporter.getreports("passed") if report.when == "call"]
    counts = {p: sum(p in report.keywords for report in passed) for p in PROVENANCES}
    if any(counts.values()):
        terminalreporter.write_line(
            "provenance: " + ", ".join(f"{count} {name}" for name, count in counts.items())
        )


@pytest.fixture(scope="session")
def server() -> Iterator[ServerProcess]:
    """Starts one server with the stand-in model, for all tests that need no special flags."""
    with server_process("--parallel", "8", "--context-length", str(CONTEXT_LENGTH)) as running:
        yield running


@pytest.fixture(scope="module")
def scripted_server() -> Iterator[ServerProcess]:
    """Starts one server with the backend `scripted`, for all tests of a module."""
    with server_process("--backend", "scripted") as running:
        yield running


@pytest.fixture
def scripted(scripted_server: ServerProcess) -> ServerProcess:
    """The server of the module with the backend `scripted`, reset before each test."""
    scripted_server.reset()
    return scripted_server
