"""Calls and answers, recorded in files and given again from them: the same bytes, no model.

`record` has somebody answer and takes that down while it passes. `replay` answers from the files
alone: a call that they do not have is an error, never a question to a model.
"""

from __future__ import annotations

import asyncio
import logging

from fastapi import FastAPI, Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Receive, Scope, Send

from workers_ai_emulator.backends.choice import BACKEND_HEADER
from workers_ai_emulator.errors import RequestTooLarge, WireError
from workers_ai_emulator.middleware.recordings.folder import Folder
from workers_ai_emulator.middleware.recordings.player import Player
from workers_ai_emulator.middleware.recordings.recorder import Recorder
from workers_ai_emulator.middleware.recordings.request import RecordedRequest
from workers_ai_emulator.routes import access as callers
from workers_ai_emulator.routes import gateway
from workers_ai_emulator.routes.generation import MAX_BODY_BYTES
from workers_ai_emulator.settings import Settings
from workers_ai_emulator.wire.calls import Call, call_of, read_body, while_connected
from workers_ai_emulator.wire.error_response import error_response
from workers_ai_emulator.wire.redaction import Redaction

log = logging.getLogger(__name__)


class RecordingMiddleware:
    """An ASGI application around another: records its answers, or answers in its place.

    A call chooses by `x-emulator-backend: record` or `replay`, else the setting `backend` does.
    Raises SettingInvalid for a folder or URL that cannot be used.
    """

    def __init__(self, app: FastAPI, settings: Settings) -> None:
        folder = Folder(settings.cassettes)
        if settings.backend == "record":
            folder.prepare_to_record()
        elif settings.backend == "replay":
            folder.prepare_to_replay()
        self._app = app
        self._backend = settings.backend
        self._player = Player(folder, settings.replay_speed)
        self._recorder = Recorder(folder, settings.record_from, _source(app, settings))

    def reset(self) -> None:
        """Replay every sequence from its start; what is recorded from now on begins a new one."""
        self._player.reset()
        self._recorder.reset()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        call = call_of(scope)
        if call is None:
            await self._app(scope, receive, send)
            return
        backend = Headers(scope=scope).get(BACKEND_HEADER) or self._backend
        if backend not in ("record", "replay"):
            await self._app(scope, receive, send)
            return
        try:
            self._check_caller(call, scope)
            body, receive = await read_body(receive, MAX_BODY_BYTES)
            if len(body) > MAX_BODY_BYTES:
                raise RequestTooLarge
            redaction = Redaction(Headers(scope=scope), call.account_id or "")
            request = await asyncio.to_thread(
                RecordedRequest.of, call, scope["query_string"], body, redaction
            )
            if backend == "replay":
                await while_connected(self._player.play(request, send), receive)
            else:
                await self._recorder.record(request, redaction, scope, receive, send)
        except WireError as error:
            await _refuse(error, scope, receive, send)

    def _check_caller(self, call: Call, scope: Scope) -> None:
        """As the routes do, which a replayed call does not reach. Raises what the front says."""
        params = {"account_id": call.account_id}
        request = Request({**scope, "app": self._app, "path_params": params})
        if call.account_id is None:
            callers.check_binding(request)
        elif scope["path"].startswith(gateway.PREFIX):
            callers.check_gateway_caller(request)
        else:
            callers.check_caller(request)


def _source(app: FastAPI, settings: Settings) -> ASGIApp:
    """What answers calls that are recorded."""
    if settings.record_from == "cloudflare":
        from workers_ai_emulator.middleware.recordings.cloudflare import (
            Cloudflare,  # slow to import, and for few
        )

        return Cloudflare(settings.cloudflare_url)

    async def ask_backend(scope: Scope, receive: Receive, send: Send) -> None:
        scope = {**scope, "headers": list(scope["headers"])}  # others still see the client's
        MutableHeaders(scope=scope)[BACKEND_HEADER] = settings.record_from
        await app(scope, receive, send)

    return ask_backend


async def _refuse(error: WireError, scope: Scope, receive: Receive, send: Send) -> None:
    answer = error_response(scope["path"], error)
    if error.status >= 500:
        log.error("%s", " | ".join(str(error).splitlines()))
        answer.headers["x-should-retry"] = "false"  # SDKs would wait and ask again
    await answer(scope, receive, send)
