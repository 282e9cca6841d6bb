"""Fixtures and options for all tests, and the count of what the wire's tests rest on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.server import INT8, ServerProcess, server_process

PROVENANCES = ("recorded", "documented", "inferred")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("conformance")
    group.addoption("--target", choices=["emulator", "cloudflare"], default="emulator")
    group.addoption("--model", default=INT8, help="the model to ask on --target=cloudflare")
    group.addoption("--record", action="store_true", help="write snapshots; needs the service")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--record") and config.getoption("--target") != "cloudflare":
        raise pytest.UsageError("--record writes what the service says: add --target=cloudflare")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line: how many tests of the wire passed, by how their answers are known."""
    passed = [report for report in terminalreporter.getreports("passed") if report.when == "call"]
    counts = {p: sum(p in report.keywords for report in passed) for p in PROVENANCES}
    if any(counts.values()):
        terminalreporter.write_line(
            "provenance: " + ", ".join(f"{count} {name}" for name, count in counts.items())
        )


@pytest.fixture(scope="session")
def server() -> Iterator[ServerProcess]:
    """One real server with the embedded model for all tests that only ask it."""
    with server_process("--parallel", "8", "--context-length", "2048") as running:
        yield running
