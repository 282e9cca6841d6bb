"""The kinds of HTTP responses that endpoints send: JSON, errors, and streams of events."""

from __future__ import annotations

import logging
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from sse_starlette import EventSourceResponse
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from workers_ai_emulator.errors import EmulatorError
from workers_ai_emulator.wire.context import context_of
from workers_ai_emulator.wire.endpoints import GATEWAY_PREFIX, MESSAGES_PATH, RESPONSES_PATH
from workers_ai_emulator.wire.envelope import failure, messages_failure, responses_failure, to_json
from workers_ai_emulator.wire.errors import (
    GATEWAY_RATE_LIMITED,
    GATEWAY_SPEND_LIMITED,
    Sender,
    WireError,
)
from workers_ai_emulator.wire.gateway_headers import limit_headers

log = logging.getLogger(__name__)

CLIENT_CLOSED_REQUEST = 499  # the status if the client has disconnected before the response

# Path prefixes of AI Gateway and of AI bindings. In responses to requests for these paths, errors
# of Workers AI have no envelope.
_BARE_PREFIXES = (GATEWAY_PREFIX, "/run", "/ai-gateway/", "/ai-api/")
# The errors with headers of AI Gateway. The error for a gateway without credits has none, because
# the service writes no log for it [recorded].
_LIMITS = (GATEWAY_RATE_LIMITED, GATEWAY_SPEND_LIMITED)
# Who sends the errors that depend on the model or its input.
_MODEL_SENDERS = (Sender.WORKERS_AI, Sender.GATEWAY_LIMIT)


class JsonResponse(Response):
    """A response with a JSON body. Its content type has no charset, as on the service."""

    def __init__(
        self, body: bytes, status: int = 200, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(body, status, {"content-type": "application/json", **(headers or {})})


def json_response(value: Any, status: int = 200) -> JsonResponse:
    """Returns a response whose body is the value as JSON."""
    return JsonResponse(to_json(value), status)


class ErrorResponse(JsonResponse):
    """A response with an error, which it stores in the request's context for the log."""

    def __init__(self, body: bytes, error: WireError, headers: Mapping[str, str] | None) -> None:
        super().__init__(body, error.type.status, headers)
        self._error = error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        context_of(scope).error = self._error
        await super().__call__(scope, receive, send)


def error_response(
    path: str, error: WireError, headers: Mapping[str, str] | None = None
) -> ErrorResponse:
    """Returns the response to a request for `path` that fails with `error`.

    `headers`: headers that are added to the response. For errors of Workers AI, the header
    `cf-ai-req-id` is added instead, and for limits of AI Gateway, the gateway's headers.
    """
    request_id = str(uuid.uuid4())
    if error.type.sender is Sender.WORKERS_AI:
        headers = {"cf-ai-req-id": request_id}
    is_bare = path.startswith(_BARE_PREFIXES)
    if error.type in _LIMITS and is_bare:
        headers = limit_headers()
    return ErrorResponse(_error_body(path, error, request_id, is_bare=is_bare), error, headers)


def _error_body(path: str, error: WireError, request_id: str, *, is_bare: bool) -> bytes:
    if path.endswith(MESSAGES_PATH) and error.type.sender in _MODEL_SENDERS:
        return messages_failure(error, request_id)
    if path.endswith(RESPONSES_PATH) and error.type.sender is Sender.WORKERS_AI:
        return responses_failure(error, request_id)
    return failure(error, request_id, is_bare=is_bare)


def disconnect_response() -> Response:
    """Returns the response to a client that has disconnected, with the status of nginx: 499.

    The client no longer receives this response, but the log and the journal show its status.
    """
    return Response(status_code=CLIENT_CLOSED_REQUEST)


class EventStream(EventSourceResponse):
    """A response that streams events. Calls `on_end` when the stream is complete, cut or cancelled.

    Sends no pings, no comments and no charset, because Cloudflare sends none.
    """

    def __init__(
        self,
        events: AsyncIterator[bytes],
        on_end: Callable[[], None],
        headers: Mapping[str, str],
    ) -> None:
        super().__init__(
            events, ping=0, sep="\n", headers={**headers, "content-type": "text/event-stream"}
        )
        self._on_end = on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        except EmulatorError as error:
            # The HTTP status was already sent, so the error can only be reported by cutting the
            # stream.
            log.error("a stream breaks off: %s", error)
        finally:
            # Calls `on_end` here and not in a `finally` of the generator `events`. If the stream is
            # cut, Python runs a generator's `finally` only when it garbage-collects the generator,
            # which is too late.
            self._on_end()
