"""The answer that an error is, in the form of the place where it was asked for."""

from __future__ import annotations

import uuid
from collections.abc import Mapping

from workers_ai_emulator.errors import AiError, WireError
from workers_ai_emulator.wire.envelope import JsonResponse, failure

# AI Gateway and bindings get a bare error instead of an envelope.
_BARE_PREFIXES = ("/v1/", "/run", "/ai-gateway/", "/ai-api/")


def error_response(
    path: str, error: WireError, headers: Mapping[str, str] | None = None
) -> JsonResponse:
    """The answer to a request for `path`; `headers` are those of errors that have no request id."""
    request_id = str(uuid.uuid4())
    is_bare = path.startswith(_BARE_PREFIXES)
    headers = {"cf-ai-req-id": request_id} if isinstance(error, AiError) else headers
    return JsonResponse(failure(error, request_id, is_bare=is_bare), error.status, headers)
