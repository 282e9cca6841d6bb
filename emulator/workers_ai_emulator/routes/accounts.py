"""Routes that describe accounts. Scripts and MCP servers call them to find their account's id."""

from __future__ import annotations

from fastapi import Request, Response

from workers_ai_emulator.routes.paging import page_of
from workers_ai_emulator.routes.router import EndpointRouter
from workers_ai_emulator.wire import endpoints
from workers_ai_emulator.wire.accounts import DEFAULT_ACCOUNT
from workers_ai_emulator.wire.context import context_of
from workers_ai_emulator.wire.envelope import success
from workers_ai_emulator.wire.errors import USER_FORBIDDEN, WireError
from workers_ai_emulator.wire.responses import JsonResponse

_NAME = "workers-ai-emulator"
_PAGE_SIZE = 20  # the size of the page in the documentation's example

router = EndpointRouter()


@router.handles(endpoints.LIST_ACCOUNTS)
async def list_accounts(request: Request) -> Response:
    """Lists one account: the one that the request names in a header or a prefix of its path.

    If the request names no account, lists the default account. The list is empty if the query
    parameter `name` is not the account's name. We do not know whether the service also finds parts
    of names. [developers.cloudflare.com/api/resources/accounts/methods/list]
    """
    account = _account(context_of(request.scope).account or DEFAULT_ACCOUNT)
    rows = [account] if request.query_params.get("name", _NAME) == _NAME else []
    return page_of(request, rows, default_size=_PAGE_SIZE)


@router.handles(endpoints.SHOW_ACCOUNT)
async def show_account(request: Request) -> Response:
    """Describes the account with this id, which may be any.

    [developers.cloudflare.com/api/resources/accounts/methods/get]
    """
    return JsonResponse(success(_account(request.path_params["account_id"])))


@router.handles(endpoints.USER)
@router.handles(endpoints.MEMBERSHIPS)
async def user_data(request: Request) -> Response:
    """Refuses the request, as the service does if the token is only for Workers AI.

    `wrangler whoami` then shows the account without the user's e-mail address.
    """
    raise WireError(USER_FORBIDDEN)


def _account(account_id: str) -> dict[str, object]:
    return {
        "id": account_id,
        "name": _NAME,
        "type": "standard",
        "created_on": "2026-01-01T00:00:00.000000Z",
        "settings": {"abuse_contact_email": None, "enforce_twofactor": False},
    }
