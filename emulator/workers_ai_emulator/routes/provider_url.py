"""Routes that return the base URL of a provider of AI Gateway, which is a URL of this server."""

from __future__ import annotations

from fastapi import Request, Response

from workers_ai_emulator.routes.router import EndpointRouter
from workers_ai_emulator.wire import endpoints
from workers_ai_emulator.wire.context import context_of
from workers_ai_emulator.wire.envelope import success
from workers_ai_emulator.wire.hosts import SERVICE_HOSTS, host_of
from workers_ai_emulator.wire.responses import JsonResponse

_ANY_ACCOUNT = "0" * 32  # the account id in URLs for bindings that send no account id

router = EndpointRouter()


@router.handles(endpoints.PROVIDER_URL)
async def provider_url(request: Request) -> Response:
    """Returns the URL as a text, for `client.aiGateway.urls.get()` of Cloudflare's SDK.

    [developers.cloudflare.com/api/resources/ai_gateway/subresources/urls/methods/get]
    """
    return JsonResponse(success(_url(request, request.path_params["account_id"])))


@router.handles(endpoints.BINDING_GATEWAY_URL)
async def binding_url(request: Request) -> Response:
    """Returns the URL in the key `url`, for `env.AI.gateway().getUrl()`."""
    return JsonResponse(success({"url": _url(request, _ANY_ACCOUNT)}))


def _url(request: Request, account: str) -> str:
    """Returns the base URL of the provider in the request's path.

    The URL has the account that the request names in a header or a prefix of its path, so that the
    account's rules apply to requests to the URL, too. Without such an account, it has `account`.
    """
    account = context_of(request.scope).account or account
    gateway_id, provider = request.path_params["gateway_id"], request.path_params["provider"]
    provider = "" if provider == "universal" else provider
    return f"http://{_address(request)}{endpoints.GATEWAY_PREFIX}{account}/{gateway_id}/{provider}"


def _address(request: Request) -> str:
    """Returns the host and port under which the client reached this server.

    They are in the header `Host`, except for bindings and programs under `exec`, which send the
    real service's host name.
    """
    named = request.headers.get("host")
    if named and host_of(f"//{named}") not in SERVICE_HOSTS:
        return named
    host, port = request.scope["server"]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
