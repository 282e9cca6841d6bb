"""Hints for the log: what a client that got an error has to change. Responses contain no hints."""

from __future__ import annotations

import re

from starlette.datastructures import Headers
from starlette.types import Scope

from workers_ai_emulator.wire.accounts import is_account_id
from workers_ai_emulator.wire.errors import (
    BAD_INPUT,
    CREDENTIALS_MISSING,
    GATEWAY_NOT_CONFIGURED,
    INVALID_ACCOUNT,
    NO_ROUTE,
    WireError,
)
from workers_ai_emulator.wire.hosts import SERVICE_HOSTS, host_of

PROVIDERS = ("workers-ai", "compat")  # the providers of AI Gateway that are emulated

_ACCOUNT = re.compile(r"/client/v4/accounts/([^/]*)(?:/.*)?|/v1/([^/]+)/[^/]+(?:/.*)?", re.DOTALL)
_GATEWAY = re.compile(r"/v1/(?P<account>[^/]+)/[^/]+/(?P<provider>[^/]+)(?:/.*)?", re.DOTALL)
_OPENAI_BASE = re.compile(r"/client/v4/accounts/[^/]+/ai/v1/[^/]+(?:/completions)?")
_OPENAI = re.compile(r".*/(?:chat/completions|completions|embeddings|responses|models)", re.DOTALL)
_ANTHROPIC_BASE = re.compile(r"/client/v4/accounts/[^/]+/ai/v1/messages(?:/.*)?", re.DOTALL)
_ANTHROPIC = re.compile(r".*/messages(?:/count_tokens)?", re.DOTALL)
_MODELS = re.compile(r"/client/v4/accounts/[^/]+/ai/models")
_API = re.compile(r"/(?:v4/)?(?:accounts|user)/.*", re.DOTALL)

# Anthropic's SDKs send their option `apiKey` in the header `x-api-key`, and `authToken` in
# `Authorization`.
_KEY_HINT = (
    "the header x-api-key is not read, send the token in `Authorization: Bearer TOKEN`; the option "
    "of Anthropic's SDKs is authToken (node) or auth_token (Python)"
)

# Matches an error about a message without a text as `content`, in the words of the service.
_INCOMPLETE_MESSAGE = re.compile(
    r"required properties at '/messages/\d+' are 'role,content'"
    r"|Type mismatch of '/messages/\d+/content', 'string' not in 'null'"
)
_MESSAGE_HINT = (
    "the service refuses messages without a role or a content for this model; the content of a "
    "message with tool calls may be an empty text, but not null"
)


def hint_of(scope: Scope, error: WireError) -> str:
    """Returns the hint for the client of a request that got `error`; empty if there is none."""
    if error.type is CREDENTIALS_MISSING and "x-api-key" in Headers(scope=scope):
        return _KEY_HINT
    if error.type is BAD_INPUT and _INCOMPLETE_MESSAGE.search(str(error)):
        return _MESSAGE_HINT
    if error.hint or error.type not in (NO_ROUTE, INVALID_ACCOUNT, GATEWAY_NOT_CONFIGURED):
        return error.hint
    path = scope["path"]
    gateway = _GATEWAY.fullmatch(path)
    if gateway and is_account_id(gateway["account"]):
        return provider_hint(gateway["provider"])
    if _MODELS.fullmatch(path):
        return _account_hint(path) or "the list of models is ai/models/search"
    if client_hint := _client_hint(scope, path):
        return client_hint
    if path == "/":
        return f"the base URL is {_api_url(scope)}, and the dashboard is at /_emulator/"
    if _API.fullmatch(path):
        return "the path begins with /client/v4"
    return _account_hint(path)


def provider_hint(provider: str) -> str:
    """Returns the hint for a request to a provider of AI Gateway; empty if it is emulated."""
    if provider in PROVIDERS:
        return ""
    return f"provider {provider} is not emulated, only {' and '.join(PROVIDERS)}"


def _client_hint(scope: Scope, path: str) -> str:
    """Returns the hint for a path that an SDK appends to a wrong base URL; empty for others."""
    if _OPENAI.fullmatch(path) and not _OPENAI_BASE.fullmatch(path):
        return f"OpenAI clients need the base URL {_api_url(scope)}/accounts/ACCOUNT_ID/ai/v1"
    if _ANTHROPIC.fullmatch(path) and not _ANTHROPIC_BASE.fullmatch(path):
        return f"Anthropic clients need the base URL {_api_url(scope)}/accounts/ACCOUNT_ID/ai"
    return ""


def _account_hint(path: str) -> str:
    match = _ACCOUNT.fullmatch(path)
    account = match and (match[1] or match[2])
    if match is None or is_account_id(account):
        return ""
    return f"account id {account!r} is refused: use any 32 hexadecimal digits (0-9, a-f)"


def _api_url(scope: Scope) -> str:
    """Returns the base URL of the API under the host name that the client used."""
    host = Headers(scope=scope).get("host", "127.0.0.1")
    if host_of(f"//{host}") in SERVICE_HOSTS:
        return "https://api.cloudflare.com/client/v4"
    return f"http://{host}/client/v4"
