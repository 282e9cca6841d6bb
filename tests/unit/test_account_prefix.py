"""Tests that responses keep the account in the prefix of a path."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urljoin

import pytest
from workers_ai_emulator.app import create_app
from workers_ai_emulator.models.models_file import read_catalog
from workers_ai_emulator.routes.services import Services
from workers_ai_emulator.settings import Settings

from tests.asgi import call, http_scope, status_of

PREFIX = f"/_emulator/accounts/{'a' * 32}"


@pytest.mark.parametrize("path", ["/_emulator", f"{PREFIX}/_emulator"])
def test_the_redirect_to_the_dashboard_keeps_the_prefix(tmp_path: Path, path: str) -> None:
    settings = Settings(backend="scripted", models_dir=tmp_path)
    app = create_app(Services.create(settings, read_catalog(tmp_path)))
    sent = call(app, http_scope(path, "GET", {"host": "localhost"}), [b""])
    location = dict(sent[0]["headers"])[b"location"].decode()
    assert status_of(sent) == 307
    assert urljoin(f"http://localhost{path}", location) == f"http://localhost{path}/"
