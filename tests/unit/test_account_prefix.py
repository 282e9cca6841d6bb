"""Tests the prefix of a path that names an account."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urljoin

import pytest
from starlette.types import Receive, Scope, Send
from workers_ai_emulator.app import create_app
from workers_ai_emulator.middleware.account import AccountMiddleware
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


@pytest.mark.parametrize("path", ["/run", "/v1/a%2Fb/%C3%A4"])
def test_the_prefix_is_removed_also_from_the_path_that_is_forwarded(path: str) -> None:
    seen = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append((scope["path"], scope["raw_path"]))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body"})

    scope = http_scope(unquote(PREFIX + path), "POST", {})
    scope["raw_path"] = (PREFIX + path).encode()
    call(AccountMiddleware(app), scope, [b""])
    assert seen == [(unquote(path), path.encode())]
