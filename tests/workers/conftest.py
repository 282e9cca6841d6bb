"""Fixtures for tests in which the server and the tools that run a Worker have no network."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import npm
from tests.offline import offline
from tests.server import ServerProcess, server_process
from tests.workers.tools import bundle, install_all

# Completions of the backend `scripted`. A request selects this backend with a header.
WORDS = "é 🍎 naïve 日本語 🍎🍊🍋 ü"
SCRIPT = [
    {"contains": "with pauses", "answer": WORDS, "tokens_per_second": 50},
    {"contains": "a long word", "answer": f"short {'🍎' * 500} short", "tokens_per_second": 50},
    {"contains": "many words", "answer": " ".join([WORDS] * 40)},
]


@pytest.fixture(scope="session")
def worker_module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Installs all packages before the network is cut, and bundles the Worker into one file."""
    npm.require_node()
    install_all()
    module = tmp_path_factory.mktemp("bundle") / "worker.mjs"
    bundle(module)
    return module


@pytest.fixture(scope="module")
def no_network(worker_module: Path) -> Iterator[None]:
    with offline():
        yield


@pytest.fixture(scope="module")
def server(no_network: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Starts one server for each test module. It has a seed, because some SDKs cannot send one."""
    script = tmp_path_factory.mktemp("script") / "script.json"
    script.write_text(json.dumps(SCRIPT, ensure_ascii=False), "utf-8")
    flags = ("--seed", "1", "--parallel", "4", "--context-length", "2048", "--script", str(script))
    with server_process(*flags) as running:
        yield running
