"""Tests how a client finds out whose emulator listens at a port."""

from __future__ import annotations

from datetime import UTC, datetime

import httpx
from workers_ai_emulator import __version__

from tests.server import server_process


def test_info_names_the_process_and_its_settings() -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    with server_process("--backend", "scripted", "--seed", "7") as server:
        info = httpx.get(f"{server.root}/_emulator/info").json()
        pid = server.process.pid
    assert (info["version"], info["pid"]) == (__version__, pid)
    assert before <= datetime.fromisoformat(info["started_at"]) <= datetime.now(UTC)
    assert info["settings"]["backend"] == "scripted"
    assert (info["settings"]["seed"], info["settings"]["port"]) == (7, 0)


def test_info_needs_the_token_and_does_not_show_it() -> None:
    with server_process("--backend", "scripted", "--api-token", "secret-1") as server:
        url = f"{server.root}/_emulator/info"
        assert httpx.get(url).status_code == 400
        response = httpx.get(url, headers={"authorization": "Bearer secret-1"})
    assert response.status_code == 200
    assert "secret-1" not in response.text
