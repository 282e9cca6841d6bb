"""Tests, without a network, the versions of wrangler in the table of docs/workers.md."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests import npm
from tests.server import ServerProcess, server_process
from tests.workers.project import Project, Worker
from tests.workers.tools import (
    CORNERS,
    FIRST_WITH_PLUGINS,
    LAST_WITH_EXCHANGE,
    LAST_WITH_VARIABLES,
    OLDEST_WITH_NODE_20,
    Packages,
    with_api_url,
    with_exec,
    with_local_file,
    with_pages,
)

pytestmark = [pytest.mark.documented, pytest.mark.node]

PAGE = npm.REPOSITORY / "docs" / "workers.md"
# wrangler 3.33 can read only TOML.
CONFIGURATION = """\
name = "worker"
main = "worker.mjs"
compatibility_date = "2024-01-01"

[ai]
binding = "AI"
"""


@pytest.fixture(scope="module")
def server(no_network: None) -> Iterator[ServerProcess]:
    """Starts a server without a model, because these tests do not check the text."""
    with server_process("--backend", "scripted") as running:
        yield running


@pytest.mark.parametrize(
    ("wrangler", "run", "sdk"),
    [
        (OLDEST_WITH_NODE_20, with_exec, "1.0.53"),  # has no `env.AI.run()` yet
        (LAST_WITH_VARIABLES, with_api_url, "native"),
        (FIRST_WITH_PLUGINS, with_exec, "native"),
        (FIRST_WITH_PLUGINS, with_local_file, "native"),
        (LAST_WITH_EXCHANGE, with_exec, "native"),
        (LAST_WITH_EXCHANGE, with_pages, "native"),
    ],
    ids=lambda value: getattr(value, "name", getattr(value, "__name__", value)),
)
def test_a_worker_gets_a_completion_and_wrangler_prints_no_error(
    wrangler: Packages,
    run: Callable[[Project], AbstractContextManager[Worker]],
    sdk: str,
    worker_module: Path,
    server: ServerProcess,
    tmp_path: Path,
) -> None:
    with run(create(tmp_path, worker_module, wrangler, server)) as worker:
        response = worker.get(f"/{sdk}/json")
    assert response.status == 200, worker.log
    assert json.loads(response.text)["result"]["response"]
    assert "ERROR" not in worker.log


def test_get_platform_proxy_works_under_exec(
    worker_module: Path, server: ServerProcess, tmp_path: Path
) -> None:
    project = create(tmp_path, worker_module, FIRST_WITH_PLUGINS, server)
    output = project.run(*project.under_exec("node", "platform.mjs", "wrangler.toml"))
    assert json.loads(output.splitlines()[-1])["response"]


@pytest.mark.parametrize("wrangler", CORNERS, ids=lambda packages: packages.name)
def test_the_page_names_the_version(wrangler: Packages) -> None:
    version = wrangler.name.removeprefix("wrangler-").removesuffix(".0")
    assert f" {version} " in PAGE.read_text("utf-8")


def create(folder: Path, worker_module: Path, wrangler: Packages, server: ServerProcess) -> Project:
    project = Project.create(folder, worker_module, wrangler.node_modules, server)
    (folder / "wrangler.jsonc").unlink()  # because wrangler prefers it to the TOML file
    (folder / "wrangler.toml").write_text(CONFIGURATION, "utf-8")
    return project
