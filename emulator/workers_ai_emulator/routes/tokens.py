"""Routes that verify an API token. Many clients call these routes first."""

from __future__ import annotations

from fastapi import Request, Response

from workers_ai_emulator.routes.router import EndpointRouter
from workers_ai_emulator.routes.services import services_of
from workers_ai_emulator.wire import endpoints
from workers_ai_emulator.wire.envelope import success
from workers_ai_emulator.wire.responses import JsonResponse

# The service's message for a valid token, as recorded. In this message, code 10000 means success;
# in errors, it means that the authentication failed.
_VALID = {"code": 10000, "message": "This API Token is valid and active", "type": None}

router = EndpointRouter()


@router.handles(endpoints.VERIFY_USER_TOKEN)
@router.handles(endpoints.VERIFY_ACCOUNT_TOKEN)
async def verify(request: Request) -> Response:
    """Verifies the token in the header `Authorization`, and returns the token's id and status.

    [developers.cloudflare.com/api/resources/user/subresources/tokens/methods/verify]
    """
    token_id = services_of(request).authorization.token_id(request.headers)
    return JsonResponse(success({"id": token_id, "status": "active"}, [_VALID]))
