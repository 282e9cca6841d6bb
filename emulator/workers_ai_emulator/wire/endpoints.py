"""The endpoint table: method, path and access check of each endpoint, and whether it runs a model.

`routes/router.py` adds a handler to each row, `wire/calls.py` finds the row of a request, and
`routes/openapi.py` describes each row.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Access(Enum):
    """The authorization check of an endpoint, which `wire/authorization.py` performs."""

    PUBLIC = "no check before the handler"
    ACCOUNT = "a well-formed account id, then a token of Cloudflare's API"
    ACCOUNT_ID = "a well-formed account id only; the handler checks the token"
    GATEWAY = "a well-formed account id, then a token of AI Gateway"
    BINDING = "a token, unless the client is on this machine"
    CONTROL = "a token of Cloudflare's API"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A row of the endpoint table.

    `path`: may have path parameters in Starlette's form: `{name}` or `{name:path}`.
    `is_inference`: whether the endpoint runs a model. If so, the middleware adds the endpoint's
    calls to the journal, applies faults to them, counts their neurons and records them.
    `parameters`: the query parameters that the endpoint takes; others are refused. None: others are
    ignored.
    """

    method: str
    path: str
    access: Access
    summary: str
    is_inference: bool = False
    parameters: tuple[str, ...] | None = None


GATEWAY_PREFIX = "/v1/"
RESPONSES_PATH = "/ai/v1/responses"
MESSAGES_PATH = "/ai/v1/messages"
CONTROL_PREFIX = "/_emulator"

_ACCOUNT = "/client/v4/accounts/{account_id}"
_GATEWAY = f"{GATEWAY_PREFIX}{{account_id}}/{{gateway_id}}"
_BINDING_GATEWAY = "/ai-gateway/gateways/{gateway_id}"


def _inference(path: str, access: Access, summary: str) -> Endpoint:
    return Endpoint("POST", path, access, summary, is_inference=True)


# ── Cloudflare's API v4 ─────────────────────────────────────────────────────────────────────────

RUN = _inference(f"{_ACCOUNT}/ai/run", Access.ACCOUNT, "Run the model that the body names")
RUN_MODEL = _inference(f"{_ACCOUNT}/ai/run/{{model:path}}", Access.ACCOUNT, "Run a model")
CHAT_COMPLETIONS = _inference(
    f"{_ACCOUNT}/ai/v1/chat/completions", Access.ACCOUNT, "OpenAI's chat completions"
)
COMPLETIONS = _inference(f"{_ACCOUNT}/ai/v1/completions", Access.ACCOUNT, "OpenAI's completions")
RESPONSES = _inference(f"{_ACCOUNT}{RESPONSES_PATH}", Access.ACCOUNT, "OpenAI's Responses API")
EMBEDDINGS = _inference(f"{_ACCOUNT}/ai/v1/embeddings", Access.ACCOUNT, "OpenAI's embeddings")
MESSAGES = _inference(
    f"{_ACCOUNT}{MESSAGES_PATH}",
    Access.ACCOUNT,
    "Anthropic's Messages API, which models of Workers AI do not have: always an error",
)
OTHER_OPENAI = Endpoint(
    "POST",
    f"{_ACCOUNT}/ai/v1/{{endpoint:path}}",
    Access.PUBLIC,
    "Other endpoints of OpenAI's API, which Workers AI does not have: always an error",
)
SEARCH_MODELS = Endpoint("GET", f"{_ACCOUNT}/ai/models/search", Access.ACCOUNT, "List the models")
MODEL_SCHEMA = Endpoint(
    "GET", f"{_ACCOUNT}/ai/models/schema", Access.ACCOUNT, "A model's input and output schemas"
)
SEARCH_TASKS = Endpoint("GET", f"{_ACCOUNT}/ai/tasks/search", Access.ACCOUNT, "List the tasks")
LIST_ACCOUNTS = Endpoint("GET", "/client/v4/accounts", Access.CONTROL, "List the accounts")
SHOW_ACCOUNT = Endpoint("GET", _ACCOUNT, Access.ACCOUNT, "Describe an account")
_USER_DATA = "The user's data, which a token for Workers AI may not read: always an error"
USER = Endpoint("GET", "/client/v4/user", Access.CONTROL, _USER_DATA)
MEMBERSHIPS = Endpoint("GET", "/client/v4/memberships", Access.CONTROL, _USER_DATA)
VERIFY_USER_TOKEN = Endpoint(
    "GET", "/client/v4/user/tokens/verify", Access.PUBLIC, "Verify a user's token"
)
VERIFY_ACCOUNT_TOKEN = Endpoint(
    "GET", f"{_ACCOUNT}/tokens/verify", Access.ACCOUNT_ID, "Verify an account's token"
)
SESSION_TOKEN = Endpoint(
    "GET",
    f"{_ACCOUNT}/workers/subdomain/edge-preview",
    Access.ACCOUNT,
    "The token that `wrangler dev` asks for before it starts a remote session",
)
EXCHANGE_TOKEN = Endpoint(
    "GET",
    f"{_ACCOUNT}/workers/subdomain/edge-preview/exchange",
    Access.PUBLIC,
    "The token and the URLs of a remote session, which wrangler requests without authorization",
)
PREWARM = Endpoint(
    "POST",
    f"{_ACCOUNT}/workers/subdomain/edge-preview/prewarm",
    Access.PUBLIC,
    "Has no effect; wrangler 4.36 to 4.71 call it when a remote session starts",
)
SUBDOMAIN = Endpoint(
    "GET", f"{_ACCOUNT}/workers/subdomain", Access.ACCOUNT, "The account's workers.dev subdomain"
)
PREVIEW_TOKEN = Endpoint(
    "POST",
    f"{_ACCOUNT}/workers/scripts/{{script}}/edge-preview",
    Access.ACCOUNT,
    "The token of a remote session of `wrangler dev`",
)

OTHER_API = "A part of Cloudflare's API that the emulator does not have: always an error"


_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


def _other_api(path: str, *methods: str) -> tuple[Endpoint, ...]:
    """Returns a row for each of the methods, or for each of _METHODS if none are given."""
    return tuple(
        Endpoint(method, f"{_ACCOUNT}{path}", Access.ACCOUNT, OTHER_API)
        for method in methods or _METHODS
    )


TO_MARKDOWN = _other_api("/ai/tomarkdown", "POST")
MARKDOWN_FORMATS = _other_api("/ai/tomarkdown/supported", "GET")
AUTHORS = _other_api("/ai/authors/search", "GET")
FINETUNES = _other_api("/ai/finetunes", "GET", "POST")
ONE_FINETUNE = _other_api("/ai/finetunes/{operation:path}")
AUTORAG = _other_api("/autorag/{operation:path}")
AI_SEARCH = _other_api("/ai-search/{operation:path}")
VECTORIZE = _other_api("/vectorize/{operation:path}")
D1 = _other_api("/d1/{operation:path}")
KV = _other_api("/storage/kv/{operation:path}")
R2 = _other_api("/r2/{operation:path}")
BROWSER_RENDERING = _other_api("/browser-rendering/{operation:path}")
PROVIDER_URL = Endpoint(
    "GET",
    f"{_ACCOUNT}/ai-gateway/gateways/{{gateway_id}}/url/{{provider}}",
    Access.ACCOUNT,
    "The base URL of a provider of AI Gateway",
)
GATEWAY_SETTINGS = _other_api("/ai-gateway/{operation:path}")

# ── AI Gateway ──────────────────────────────────────────────────────────────────────────────────

GATEWAY_UNIVERSAL = _inference(
    _GATEWAY, Access.GATEWAY, "Run the first of several requests that succeeds"
)
GATEWAY_UNIVERSAL_SLASH = _inference(
    f"{_GATEWAY}/", Access.GATEWAY, "The same, under the URL that `getUrl()` returns"
)


def _provider(path: str, summary: str) -> tuple[Endpoint, Endpoint]:
    """Returns the rows for an endpoint of a provider: on AI Gateway, and for `env.AI.fetch()`."""
    return (
        _inference(f"{_GATEWAY}{path}", Access.GATEWAY, summary),
        _inference(f"{_BINDING_GATEWAY}{path}", Access.BINDING, f"{summary}, for `env.AI.fetch()`"),
    )


GATEWAY_COMPAT = _provider("/compat/chat/completions", "OpenAI's chat completions")
GATEWAY_COMPAT_EMBEDDINGS = _provider("/compat/embeddings", "OpenAI's embeddings")
GATEWAY_COMPAT_MODELS = Endpoint(
    "GET", f"{_GATEWAY}/compat/models", Access.GATEWAY, "List the models in OpenAI's form"
)
GATEWAY_CHAT_COMPLETIONS = _provider("/workers-ai/v1/chat/completions", "OpenAI's chat completions")
GATEWAY_COMPLETIONS = _provider("/workers-ai/v1/completions", "OpenAI's completions")
GATEWAY_EMBEDDINGS = _provider("/workers-ai/v1/embeddings", "OpenAI's embeddings")
GATEWAY_RESPONSES = _provider("/workers-ai/v1/responses", "OpenAI's Responses API")
GATEWAY_RUN_MODEL = _provider("/workers-ai/{model:path}", "Run a model")

# ── a Worker's AI binding ───────────────────────────────────────────────────────────────────────

BINDING_SEARCH_MODELS = Endpoint(
    "GET", "/ai-api/models/search", Access.BINDING, "List the models for `env.AI.models()`"
)
BINDING_RUN = _inference("/run", Access.BINDING, "Run a model for `env.AI.run()`")
BINDING_GATEWAY_RUN = _inference(
    "/ai-gateway/run", Access.BINDING, "Run a model for `env.AI.run()` with the option `gateway`"
)
BINDING_GATEWAY_UNIVERSAL = _inference(
    "/ai-gateway/universal/run/{gateway_id}",
    Access.BINDING,
    "Run the first of several requests that succeeds, for `env.AI.gateway().run()`",
)
BINDING_GATEWAY_URL = Endpoint(
    "GET",
    f"{_BINDING_GATEWAY}/url/{{provider}}",
    Access.BINDING,
    "The base URL that `env.AI.gateway().getUrl()` returns",
)

_NOT_EMULATED = "A method of `env.AI` that the emulator does not have: always an error"


def _not_emulated(method: str, path: str) -> Endpoint:
    return Endpoint(method, path, Access.BINDING, _NOT_EMULATED)


BINDING_WEBSOCKET = _not_emulated("GET", "/run")
BINDING_GET_LOG = _not_emulated("GET", f"{_BINDING_GATEWAY}/logs/{{log_id}}")
BINDING_PATCH_LOG = _not_emulated("PATCH", f"{_BINDING_GATEWAY}/logs/{{log_id}}")
BINDING_TO_MARKDOWN = _not_emulated("POST", "/to-everything/{operation:path}")
BINDING_MARKDOWN_FORMATS = _not_emulated("GET", "/to-everything/{operation:path}")
BINDING_AUTORAG = _not_emulated("POST", "/autorag/{operation:path}")
BINDING_AUTORAG_LIST = _not_emulated("GET", "/autorag/{operation:path}")

# ── the emulator's own endpoints ────────────────────────────────────────────────────────────────


def _control(method: str, path: str, summary: str, access: Access = Access.CONTROL) -> Endpoint:
    return Endpoint(method, f"{CONTROL_PREFIX}{path}", access, summary)


def _taking(method: str, path: str, summary: str, *parameters: str) -> Endpoint:
    """Returns an endpoint of the emulator that takes only these query parameters.

    If none are given, the endpoint takes the parameter `account`.
    """
    path = f"{CONTROL_PREFIX}{path}"
    taken = parameters or ("account",)
    return Endpoint(method, path, Access.CONTROL, summary, parameters=taken)


HEALTHZ = _control("GET", "/healthz", "Whether the process answers", Access.PUBLIC)
READYZ = _control("GET", "/readyz", "Whether requests can be answered", Access.PUBLIC)
INFO = _control("GET", "/info", "The process, its start time and its settings without secrets")
METRICS = _control("GET", "/metrics", "Metrics for Prometheus", Access.PUBLIC)
OPENAPI = _control("GET", "/openapi.json", "This document", Access.PUBLIC)
SHOW_FAULTS = _taking("GET", "/faults", "The fault rules, and how often each still applies")
ADD_FAULTS = _taking("POST", "/faults", "Add a fault rule, or a list of them")
REPLACE_FAULTS = _taking("PUT", "/faults", "Replace the fault rules")
DELETE_FAULTS = _taking("DELETE", "/faults", "Remove the fault rules")
SHOW_SCRIPT = _taking("GET", "/script", "The rules of the script, and how often each was used")
REPLACE_SCRIPT = _taking("POST", "/script", "Replace the rules of the script")
PUT_SCRIPT = _taking("PUT", "/script", "Replace the rules of the script")
DELETE_SCRIPT = _taking("DELETE", "/script", "Restore the rules that the script had at the start")
UNMATCHED = _taking("GET", "/unmatched", "The calls that no rule and no recording answered")
UNUSED = _taking("GET", "/unused", "The rules and recordings that no call has used")
SHOW_RECORDINGS = _taking(
    "GET", "/recordings", "The folder of recordings, and how often each recording was used"
)
USE_RECORDINGS = _taking("POST", "/recordings", "Set the folder of an account's recordings")
SHOW_NEURONS = _control("GET", "/neurons", "The neurons that each account has used today")
RESET = _taking("POST", "/reset", "Restore the state of the start, except for loaded models")
REQUESTS = _taking(
    "GET", "/requests", "The last inference calls, newest first", "account", "limit", "after"
)
ONE_REQUEST = _control("GET", "/requests/{number}", "One inference call with its bodies")
LOAD = _taking("GET", "/load", "Tokens, calls and slots of the last minutes", "after")
DASHBOARD_REDIRECT = _control("GET", "", "Redirects to the dashboard", Access.PUBLIC)
DASHBOARD = _control("GET", "/", "The dashboard, a web page", Access.PUBLIC)
DASHBOARD_FILE = _control("GET", "/page/{name}", "A file of the dashboard", Access.PUBLIC)

# The endpoint table. If several rows match a request, the first one handles it, so the order of the
# rows matters.
ENDPOINTS = tuple(
    row
    for value in globals().values()
    for row in (value if isinstance(value, tuple) else (value,))
    if isinstance(row, Endpoint)
)
