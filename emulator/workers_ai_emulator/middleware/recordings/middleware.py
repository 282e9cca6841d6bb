"""Records calls and their responses in files, and replays them without a model.

The backend `record` passes a call on to another backend or to the real service, and writes the
response to a file; with some record modes, it replays calls that have a recording. The backend
`replay` sends the recorded response; a call without a recording gets an error.
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
from workers_ai_emulator.middleware.recordings.state import RecordingState
from workers_ai_emulator.wire.authorization import Authorization, Caller
from workers_ai_emulator.wire.body import MAX_BODY_BYTES, read_body
from workers_ai_emulator.wire.calls import InferenceCall
from workers_ai_emulator.wire.context import context_of
from workers_ai_emulator.wire.disconnect import while_connected
from workers_ai_emulator.wire.errors import RECORDING_MISSING, REQUEST_TOO_LARGE, WireError
from workers_ai_emulator.wire.redaction import Redaction
from workers_ai_emulator.wire.responses import error_response

log = logging.getLogger(__name__)


class RecordingMiddleware(InferenceMiddleware):
    """Handles inference calls whose backend is `record` or `replay`, and passes on all other calls.

    The header `x-emulator-backend` of a call names its backend. Without this header, the setting
    `backend` applies.
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
            # Checks the authorization here, because a replayed call does not reach its route.
            self._authorization.check(call.endpoint.access, Caller.of(scope, call.account_id))
            body, receive = await read_body(receive)
            if len(body) > MAX_BODY_BYTES:
                raise WireError(REQUEST_TOO_LARGE)
            # A recording needs its own Redaction. The journal's Redaction does not replace account
            # ids, and does not find secrets in a part of the body that the journal does not store.
            redaction = Redaction.of(scope, call.account_id or "")
            request = await asyncio.to_thread(
                RecordedRequest.of, call, scope["query_string"], body, redaction
            )
            state = self._recordings.state_of(context_of(scope).account)
            if await self._recordings.replays(backend, request, state):
                await self._replay(request, state, scope, receive, send)
            else:
                await self._recordings.recorder.record(
                    request, redaction, state, self._source, scope, receive, send
                )
        except WireError as error:
            await _send_error(error, scope, receive, send)

    async def _replay(
        self,
        request: RecordedRequest,
        state: RecordingState,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        context, player = context_of(scope), self._recordings.player
        try:
            found = await player.find(request, state)
        except WireError as error:
            context.is_unmatched = error.type is RECORDING_MISSING
            is_known = context.is_unmatched and state.is_known_missing(request.key)
            await _send_error(error, scope, receive, send, is_logged=not is_known)
            return
        context.recording = found.name
        with suppress(ClientDisconnect):
            await while_connected(player.play(found, send), receive)

    async def _source(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the call on to the backend, or the real service, whose responses are recorded."""
        if self._recordings.service is not None:
            await self._recordings.service(scope, receive, send)
            return
        # Changes a copy of the scope, because other middleware reads the client's own headers.
        scope = {**scope, "headers": list(scope["headers"])}
        MutableHeaders(scope=scope)[BACKEND_HEADER] = self._recordings.source_name
        await self._app(scope, receive, send)


async def _send_error(
    error: WireError, scope: Scope, receive: Receive, send: Send, *, is_logged: bool = True
) -> None:
    response = error_response(scope["path"], error)
    if error.type.status < 500:
        await response(scope, receive, send)
        return
    first, *more = str(error).splitlines()
    if is_logged:
        log.error("%s", " | ".join([first, *more]))
    response.headers["x-should-retry"] = "false"  # without this header, SDKs retry
    await response(scope, receive, send)
    context_of(scope).error = WireError(error.type, first)  # the request's own line in the log
