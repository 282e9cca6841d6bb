"""Tests the middleware that imitates Cloudflare's edge: headers, unread bodies and the log."""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from workers_ai_emulator.engine.types import Chunk, FinishReason, StartedGeneration, Usage
from workers_ai_emulator.middleware import edge
from workers_ai_emulator.middleware.edge import EdgeMiddleware
from workers_ai_emulator.wire.context import context_of
from workers_ai_emulator.wire.errors import BAD_INPUT, WireError
from workers_ai_emulator.wire.redaction import Redaction

from tests.asgi import Recorder, body_of, call, headers_of, http_scope, receiver

API_PATH = "/client/v4/accounts/x"


def headers_for(path: str, headers: dict[str, str] | None = None, **scope: str) -> dict[str, str]:
    return headers_of(call(EdgeMiddleware(Recorder()), http_scope(path, "GET", headers, **scope)))


# ── headers ───────────────────────────────────────────────────────────────────────────────────


def test_every_response_names_cloudflare_and_a_ray() -> None:
    for path in (API_PATH, "/v1/x/y", "/_emulator/healthz"):
        headers = headers_for(path)
        assert headers["server"] == "cloudflare"
        assert re.fullmatch(r"[0-9a-f]{16}-LHR", headers["cf-ray"])
    assert headers_for(API_PATH)["cf-ray"] != headers_for(API_PATH)["cf-ray"]


def test_only_responses_of_the_api_have_its_other_headers() -> None:
    headers = headers_for(API_PATH)
    assert headers["cf-cache-status"] == "DYNAMIC"
    assert headers["vary"] == "Accept-Encoding"
    assert not headers_for("/v1/x/y").keys() & {"cf-cache-status", "vary", "connection"}


@pytest.mark.parametrize(
    ("headers", "version", "is_kept_alive"),
    [
        ({}, "1.1", True),
        ({"connection": "keep-alive"}, "1.1", True),
        ({"connection": "Close"}, "1.1", False),
        ({}, "1.0", False),
    ],
)
def test_a_connection_that_is_kept_alive_has_a_body_without_a_length(
    headers: dict[str, str], version: str, is_kept_alive: bool
) -> None:
    found = headers_for(API_PATH, headers, http_version=version)
    assert (found.get("connection") == "keep-alive") is is_kept_alive
    assert ("content-length" not in found) is is_kept_alive


def test_headers_of_the_edge_replace_those_of_the_application_in_their_place() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        response = PlainTextResponse("", headers={"cache-control": "a", "vary": "Origin", "x": "1"})
        response.headers.append("cache-control", "b")
        response.headers.append("vary", "Cookie")
        await response(scope, receive, send)

    names = [name for name, _ in call(EdgeMiddleware(app), http_scope(API_PATH))[0]["headers"]]
    headers = headers_of(call(EdgeMiddleware(app), http_scope(API_PATH)))
    assert names[:3] == [b"cache-control", b"vary", b"x"]
    assert len(names) == len(set(names))
    assert headers["cache-control"].startswith("no-store") and headers["x"] == "1"
    assert headers["vary"] == "Origin, Cookie, Accept-Encoding"


def test_repeated_slashes_in_a_path_are_merged() -> None:
    app = Recorder()
    call(EdgeMiddleware(app), http_scope("//client/v4///accounts/x/"))
    assert app.scopes[0]["path"] == "/client/v4/accounts/x/"


def test_a_path_that_is_rewritten_further_in_stays_a_path_of_the_api() -> None:
    def rewrite(scope: Scope) -> None:
        scope["path"] = "/run"

    sent = call(EdgeMiddleware(Recorder(rewrite)), http_scope(API_PATH))
    assert headers_of(sent)["cf-cache-status"] == "DYNAMIC"


def test_scopes_of_other_types_reach_the_application() -> None:
    app = Recorder()
    call(EdgeMiddleware(app), {"type": "lifespan"})
    assert app.scopes == [{"type": "lifespan"}]


# ── the rest of a body ────────────────────────────────────────────────────────────────────────


class Upload:
    """A request body in parts. Counts how many parts have been received."""

    def __init__(self, *parts: bytes) -> None:
        self.num_received = 0
        self._receive = receiver(parts)

    async def receive(self) -> Message:
        self.num_received += 1
        return await self._receive()


def upload_to(app: Recorder, upload: Upload, headers: dict[str, str] | None = None) -> list[int]:
    """Returns, for each message that the application sends, how many parts had been received."""
    counts: list[int] = []

    async def with_upload(scope: Scope, receive: Receive, send: Send) -> None:
        async def counting_send(message: Message) -> None:
            counts.append(upload.num_received)
            await send(message)

        await EdgeMiddleware(app)(scope, upload.receive, counting_send)

    sent = call(with_upload, http_scope(API_PATH, headers=headers))
    assert body_of(sent) == b"OK"
    return counts


def test_the_rest_of_a_body_is_received_before_an_early_response() -> None:
    assert upload_to(Recorder(), Upload(b"a", b"b", b"c")) == [3, 3]


def test_a_body_that_the_client_has_not_been_asked_for_is_not_received() -> None:
    assert upload_to(Recorder(), Upload(b"a"), {"expect": "100-continue"}) == [0, 0]


def test_a_response_is_sent_if_the_rest_of_the_body_does_not_arrive(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(edge, "_REST_LIMIT_S", 0.01)
    upload = Upload()
    assert upload_to(Recorder(), upload) == [1, 1]


# ── the log ───────────────────────────────────────────────────────────────────────────────────


@dataclass
class FakeGeneration:
    finish_reason: FinishReason | None
    fingerprint: str = ""
    usage = Usage(24, 7, 16)

    def __aiter__(self) -> AsyncIterator[Chunk]:
        raise NotImplementedError

    def cancel(self) -> None:
        """Does nothing."""

    def cancel_after(self, limit_s: float) -> None:
        """Does nothing."""


def logged(caplog: pytest.LogCaptureFixture, app: ASGIApp, path: str = API_PATH) -> str:
    """Returns the log line of a request, preceded by its level and without the duration."""
    with caplog.at_level(logging.DEBUG, "workers_ai_emulator.middleware.edge"):
        call(EdgeMiddleware(app), http_scope(path))
    (record,) = caplog.records
    line, seconds, _ = re.split(r", (\d+\.\d\d) s$", record.message)
    assert float(seconds) < 10
    return f"{record.levelname} {line}"


def test_a_request_is_logged_with_its_status(caplog: pytest.LogCaptureFixture) -> None:
    assert logged(caplog, Recorder()) == f"INFO POST {API_PATH} 200"


def test_requests_to_the_emulators_own_endpoints_are_logged_at_debug_level(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert logged(caplog, Recorder(), "/_emulator/x") == "DEBUG POST /_emulator/x 200"


def test_a_path_with_control_characters_is_quoted(caplog: pytest.LogCaptureFixture) -> None:
    line = logged(caplog, Recorder(), "/a\n\x1b[2J")
    assert line == r"INFO 'POST /a\n\x1b[2J 200'"


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("/v1/token/abc123", "/v1/token/[redacted]"),
        ("/a?api_token=abc", "/a?api_token=[redacted]"),
        ("/accounts/sk-0123456789abcdef", "/accounts/[redacted]"),
    ],
)
def test_a_credential_in_a_path_is_not_logged(
    caplog: pytest.LogCaptureFixture, path: str, line: str
) -> None:
    assert logged(caplog, Recorder(), path) == f"INFO POST {line} 200"


def test_a_credential_of_the_request_is_redacted_in_the_logged_path(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def find_in_body(scope: Scope) -> None:
        context_of(scope).redaction = Redaction(Headers({"x-auth-token": "a-secret"}))

    line = logged(caplog, Recorder(find_in_body), "/a/a-secret")
    assert line == "INFO POST /a/[redacted] 200"


def test_a_fault_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    def apply_fault(scope: Scope) -> None:
        context_of(scope).fault = "capacity"

    assert logged(caplog, Recorder(apply_fault)).endswith(" 200, fault capacity")


def test_an_error_is_logged_without_credentials_and_in_one_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(scope: Scope) -> None:
        context = context_of(scope)
        context.redaction = Redaction(Headers({"x-auth-token": "a-secret"}))
        context.error = WireError(BAD_INPUT, "a-secret\n" + "x" * 1000)

    line = logged(caplog, Recorder(fail))
    assert line.startswith(f"INFO POST {API_PATH} 200, 5006: 'Error: [redacted]\\nxxx")
    assert len(line) < 500


def test_a_hint_is_logged_after_the_error(caplog: pytest.LogCaptureFixture) -> None:
    def fail(scope: Scope) -> None:
        context_of(scope).error = WireError(BAD_INPUT, "x", hint="try\ny")

    line = logged(caplog, Recorder(fail))
    assert line == f"WARNING POST {API_PATH} 200, 5006: Error: x, hint: 'try\\ny'"


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (
            b'{"errors":[{"message":"No capacity","code":3040}],"success":false}',
            "3040: No capacity",
        ),
        (
            b'{"success":false,"error":[{"code":2009,"message":"Unauthorized"}]}',
            "2009: Unauthorized",
        ),
        (
            b'{"internalCode":5007,"message":"No such","description":"No such model"}',
            "5007: No such model",
        ),
        (b'{"error":{"code":"invalid_prompt","message":"Bad\\n"}}', "'Bad\\n'"),
        (b'{"error":"limit takes 1 to 1000"}', "limit takes 1 to 1000"),
    ],
)
def test_an_error_that_another_program_has_sent_is_logged(
    caplog: pytest.LogCaptureFixture, body: bytes, text: str
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await Response(body, 400)(scope, receive, send)

    assert logged(caplog, app) == f"INFO POST {API_PATH} 400, {text}"


@pytest.mark.parametrize("body", [b"", b"<html>", b"[" * 9000, b'{"errors":[]}', b"1"])
def test_a_response_without_an_error_in_its_body_is_logged_with_its_status(
    caplog: pytest.LogCaptureFixture, body: bytes
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await Response(body, 502)(scope, receive, send)

    assert logged(caplog, app) == f"INFO POST {API_PATH} 502"


def test_a_refused_change_of_the_emulator_is_logged_at_info_level(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await Response(b"", 400)(scope, receive, send)

    assert logged(caplog, app, "/_emulator/script") == "INFO POST /_emulator/script 400"


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"model": "@cf/a/b"}, "model @cf/a/b"),
        ({"inputs": {"model": "@cf/a/b\n"}}, "'model @cf/a/b\\n'"),
        ({"account": "1" * 32}, "account " + "1" * 32),
        ({"rule": 3}, "rule 3"),
        ({"recording": "a.json"}, "recording a.json"),
        ({"is_unmatched": True}, "unmatched"),
    ],
)
def test_the_line_says_what_the_call_asked_for_and_what_answered_it(
    caplog: pytest.LogCaptureFixture, values: dict[str, Any], text: str
) -> None:
    def fill(scope: Scope) -> None:
        for name, value in values.items():
            setattr(context_of(scope), name, value)

    assert logged(caplog, Recorder(fill)) == f"INFO POST {API_PATH} 200, {text}"


def test_a_model_and_an_account_in_the_path_are_not_repeated(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fill(scope: Scope) -> None:
        context_of(scope).model, context_of(scope).account = "@cf/a/b", "1" * 32

    path = f"/client/v4/accounts/{'1' * 32}/ai/run/@cf/a/b"
    assert logged(caplog, Recorder(fill), path) == f"INFO POST {path} 200"


def test_the_beginning_of_the_prompt_is_logged_only_at_debug_level(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fill(scope: Scope) -> None:
        context_of(scope).redaction = Redaction(Headers({"x-auth-token": "a-secret"}))
        context_of(scope).inputs = {"prompt": 'a-secret "Hi"\n' + "x" * 200}

    app = EdgeMiddleware(Recorder(fill))
    with caplog.at_level(logging.DEBUG):
        call(app, http_scope(API_PATH))
    assert f'200, input "[redacted] \\"Hi\\"\\n{"x" * 64}", 0.' in caplog.text
    caplog.clear()
    with caplog.at_level(logging.INFO):
        call(app, http_scope(API_PATH))
    assert "input" not in caplog.text


def test_a_response_that_breaks_off_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x", "more_body": True})

    assert logged(caplog, app) == f"INFO POST {API_PATH} 200, the response broke off"


@pytest.mark.parametrize("more_body", [True, False])
def test_a_disconnect_before_the_end_of_the_response_is_logged(
    caplog: pytest.LogCaptureFixture, more_body: bool
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x", "more_body": more_body})
        assert (await receive())["type"] == "http.disconnect"

    async def disconnected(scope: Scope, receive: Receive, send: Send) -> None:
        async def disconnect() -> Message:
            return {"type": "http.disconnect"}

        await EdgeMiddleware(app)(scope, disconnect, send)

    with caplog.at_level(logging.INFO):
        call(disconnected, http_scope(API_PATH, headers={"expect": "100-continue"}))
    assert ("the client disconnected" in caplog.text) is more_body


@pytest.mark.parametrize(
    ("reason", "text"), [(FinishReason.LENGTH, "length"), (None, "unfinished")]
)
def test_a_generation_is_logged_with_its_tokens_and_its_finish_reason(
    caplog: pytest.LogCaptureFixture, reason: FinishReason | None, text: str
) -> None:
    def start(scope: Scope) -> None:
        context_of(scope).started = StartedGeneration(FakeGeneration(reason), "weights", str)

    assert logged(caplog, Recorder(start)) == (
        f"INFO POST {API_PATH} 200, 24 prompt (16 cached) + 7 completion tokens, {text}"
    )


def test_a_request_without_a_response_is_logged_and_its_error_is_raised(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(scope: Scope) -> None:
        raise OSError("failed")

    with pytest.raises(OSError, match="failed"):
        logged(caplog, Recorder(fail))
    assert f"POST {API_PATH} no response, " in caplog.text


def test_the_status_is_that_of_the_response(caplog: pytest.LogCaptureFixture) -> None:
    async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse("", 429)(scope, receive, send)

    with caplog.at_level(logging.INFO):
        call(EdgeMiddleware(refuse), http_scope(API_PATH))
    assert f"POST {API_PATH} 429, " in caplog.text
