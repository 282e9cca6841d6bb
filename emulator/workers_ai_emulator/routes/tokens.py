"""Token verification: many clients ask it first."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from workers_ai_emulator.routes.access import before, check_account
from workers_ai_emulator.wire.envelope import JsonResponse, success

# Recorded. The code is the one that stands for failure elsewhere.
_VALID = {"code": 10000, "message": "This API Token is valid and active", "type": None}

router = APIRouter(prefix="/client/v4")


@router.get("/user/tokens/verify")
@router.get("/accounts/{account_id}/tokens/verify", dependencies=[before(check_account)])
async def verify(request: Request) -> Response:
    """[developers.cloudflare.com/api/resources/user/subresources/tokens/methods/verify]."""
    token_id = request.app.state.authorization.token_id(request.headers)
    return JsonResponse(success({"id": token_id, "status": "active"}, [_VALID]))
