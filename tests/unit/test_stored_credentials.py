"""Tests that neither recordings nor the journal nor the log store the credentials of a call."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from workers_ai_emulator.middleware.edge import EdgeMiddleware
from workers_ai_emulator.middleware.journal import views
from workers_ai_emulator.middleware.journal.entry import MAX_PART_BYTES
from workers_ai_emulator.middleware.journal.journal import Journal
from workers_ai_emulator.middleware.journal.middleware import JournalMiddleware
from workers_ai_emulator.middleware.recordings.middleware import RecordingMiddleware
from workers_ai_emulator.middleware.recordings.recordings import Recordings
from workers_ai_emulator.settings import Settings
from workers_ai_emulator.wire.authorization import Authorization

from tests.asgi import call, http_scope, status_of
from tests.server import ACCOUNT_ID, INT8

SECRET = "my-secret-0123456789"  # found only by the name of its header, parameter or key
RUN = f"/client/v4/accounts/{ACCOUNT_ID}/ai/run/{INT8}"
UNIVERSAL = f"/v1/{ACCOUNT_ID}/gateway"
STEP = {"provider": "workers-ai", "endpoint": INT8, "query": {"prompt": f"say {SECRET}"}}


async def respond(scope: Scope, receive: Receive, send: Send) -> None:
    """Sends a response that repeats the secret."""
    body = {"result": {"response": f"it is {SECRET}"}}
    await JSONResponse(body, headers={"cf-ai-req-id": SECRET})(scope, receive, send)


def recording(folder: Path) -> ASGIApp:
    settings = Settings(cassettes=folder, backend="record", record_from="scripted")
    return RecordingMiddleware(respond, Recordings(settings), Authorization(frozenset()))


def files_in(folder: Path) -> str:
    return "".join(path.name + path.read_text() for path in folder.iterdir())


@pytest.mark.parametrize(
    "parts",
    [
        {"path": f"{RUN}/token/{SECRET}"},
        {"query_string": f"a={SECRET}&api_token={SECRET}".encode()},
        {"headers": {"x-other": SECRET, "x-auth-token": SECRET}},
        {"headers": {"authorization": f"Bearer {SECRET}"}},
        {"headers": {"cookie": f"a=1; session={SECRET}"}},
        {"body": {"prompt": f"say {SECRET}", "api_key": SECRET}},
        {"body": {"prompt": f"say {SECRET}", "image": f"https://a.example/?api_key={SECRET}"}},
        {"body": [{**STEP, "headers": {"x-anything": SECRET}}], "path": UNIVERSAL},
        {"body": [{**STEP, "headers": {"authorization": f"Bearer {SECRET}"}}], "path": UNIVERSAL},
    ],
)
def test_a_credential_in_any_part_of_a_call_is_redacted_in_all_parts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, parts: dict[str, Any]
) -> None:
    """In `parts`, the secret is a credential; all other parts also contain the secret."""
    journal = Journal()
    others = {"path": f"{RUN}/{SECRET}", "query_string": f"a={SECRET}".encode()}
    request = {
        **others,
        "headers": {"x-other": SECRET},
        "body": {"prompt": f"say {SECRET}"},
    } | parts
    body = json.dumps(request.pop("body")).encode()
    with caplog.at_level(logging.INFO):
        app = EdgeMiddleware(JournalMiddleware(recording(tmp_path), journal))
        assert status_of(call(app, http_scope(**request), [body[:20], body[20:]])) == 200
    (entry,) = journal.newest(10)
    shown = json.dumps(views.row(entry)) + asyncio.run(views.whole(entry)).decode()
    stored = files_in(tmp_path)
    assert SECRET not in stored + shown + caplog.text
    assert "it is [redacted]" in stored and "it is [redacted]" in shown
    assert ACCOUNT_ID in shown and ACCOUNT_ID not in stored


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": f"{ACCOUNT_ID} or 123456.0", "api_key": 123456.0},
        # The journal stores only the beginning of this body, so it cannot parse the body as JSON.
        # In a text that is not JSON, all values in `headers` count as credentials.
        {"a": {"headers": {"b": "some text"}}, "prompt": "some text", "c": "x" * MAX_PART_BYTES},
    ],
    ids=["number", "large body"],
)
def test_the_key_of_a_recording_does_not_depend_on_the_journal(
    tmp_path: Path, body: dict[str, Any]
) -> None:
    with_journal, without = tmp_path / "a", tmp_path / "b"
    content = json.dumps(body).encode()
    call(JournalMiddleware(recording(with_journal), Journal()), http_scope(RUN), [content])
    call(recording(without), http_scope(RUN), [content])
    (one,), (other,) = with_journal.iterdir(), without.iterdir()
    assert one.name == other.name  # the file name depends on the request's lookup key
