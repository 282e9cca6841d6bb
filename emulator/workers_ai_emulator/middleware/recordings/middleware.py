"""Records calls with their responses in files, and replays them: the same bytes without a model.

`record` lets another source respond and writes the response to a file. `replay` responds from the
files alone: a call without a recording is an error and never runs a model.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from workers_ai_emulator.backends.choice import BACKEND_HEADER
from workers_ai_emulator.middleware.base import InferenceMiddleware
from workers_ai_emulator.middleware.recordings.recordings import Recordings
from workers_ai_emulator.middleware.recordings.request import RecordedRequest
from workers_ai_emulator.wire.authorization import Authorization, Caller
from workers_ai_emulator.wire.body import MAX_BODY_BYTES, read_body
from workers_ai_emulator.wire.calls import InferenceCall
from workers_ai_emulator.wire.disconnect import while_connected
from workers_ai_emulator.wire.errors import REQUEST_TOO_LARGE, WireError
from workers_ai_emulator.wire.redaction import Redaction
from workers_ai_emulator.wire.responses import error_response

log = logging.getLogger(__name__)


class RecordingMiddleware(InferenceMiddleware):
    """Records the application's responses, or responds in its place.

    A call chooses by the header `x-emulator-backend: record` or `replay`, otherwise the setting
    `backend` does.
    """

    def __init__(self, app: ASGIApp, recordings: Recordings, authorization: Authorization) -> None:
        super().__init__(app)
        self._recordings = recordings
        self._authorization = authorization

    async def _handle(
        self, call: InferenceCall, scope: Scope, receive: Receive, send: Send
    ) -> None:
        backend = Headers(scope=scope).get(BACKEND_HEADER) or self._recordings.default_backend
        if backend not in ("record", "replay"):
            await self._app(scope, receive, send)
            return
        try:
            # A replayed call does not reach the routes, which check all other calls.
            self._authorization.check(call.endpoint.access, Caller.of(scope, call.account_id))
            body, receive = await read_body(receive)
            if len(body) > MAX_BODY_BYTES:
                raise WireError(REQUEST_TOO_LARGE)
            redaction = Redaction.of(scope, call.account_id or "")
            request = await asyncio.to_thread(
                RecordedRequest.of, call, scope["query_string"], body, redaction
            )
            if backend == "replay":
                with suppress(ClientDisconnect):
                    await while_connected(self._recordings.player.play(request, send), receive)
            else:
                await self._recordings.recorder.record(
                    request, redaction, self._source, scope, receive, send
                )
        except WireError as error:
            await _send_error(error, scope, receive, send)

    async def _source(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the response that is recorded: the real service's, or that of a backend."""
        if self._recordings.service is not None:
            await self._recordings.service(scope, receive, send)
            return
        scope = {**scope, "headers": list(scope["headers"])}  # other middleware sees the client's
        MutableHeaders(scope=scope)[BACKEND_HEADER] = self._recordings.source_name
        await self._app(scope, receive, send)


async def _send_error(error: WireError, scope: Scope, receive: Receive, send: Send) -> None:
    response = error_response(scope["path"], error)
    if error.type.status >= 500:
        log.error("%s", " | ".join(str(error).splitlines()))
        response.headers["x-should-retry"] = "false"  # otherwise SDKs wait and retry
    await response(scope, receive, send)
