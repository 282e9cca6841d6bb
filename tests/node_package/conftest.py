"""Fixtures with the npm package, and with projects of users that have installed it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests import npm
from tests.node_package import project
from tests.node_package.project import Project
from tests.workers.tools import VITEST_POOL as POOL

VITEST_AND_JEST = ("vitest@3.2.7", "jest@30.5.2")
TYPESCRIPT = ("typescript@5.9.3", "@types/node@20.19.0")


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    npm.require_node()
    return project.pack(tmp_path_factory.mktemp("package"))


@pytest.fixture
def create(package: Path, tmp_path: Path) -> Callable[[Path], Project]:
    return lambda node_modules: project.create(tmp_path, package, node_modules)


@pytest.fixture
def user(create: Callable[[Path], Project]) -> Project:
    """Returns a project that has installed the package, vitest and jest."""
    return create(project.installed("vitest-and-jest", *VITEST_AND_JEST))


@pytest.fixture
def workers_user(create: Callable[[Path], Project]) -> Project:
    """Returns a project that has installed the package, Miniflare and vitest's Workers pool."""
    POOL.install()
    return create(POOL.node_modules)


@pytest.fixture
def typescript_user(create: Callable[[Path], Project]) -> Project:
    """Returns a project that has installed the package, vitest, jest and TypeScript."""
    return create(project.installed("typescript", *VITEST_AND_JEST, *TYPESCRIPT))
