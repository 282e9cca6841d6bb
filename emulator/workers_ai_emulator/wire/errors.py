"""The error table: one row for each error that a client can receive.

The texts and codes are recorded from the service or read in its documentation
(developers.cloudflare.com/workers-ai/platform/errors). Errors marked [ours] exist only in the
emulator.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from enum import Enum
from functools import partial
from typing import Any, Literal

from workers_ai_emulator.engine.errors import (
    CapacityExceeded,
    ContextTooLong,
    DeadlineExceeded,
    EngineClosed,
    EngineError,
    GrammarFailed,
    RequestRejected,
    TextsTooLong,
    TextTooLong,
)
from workers_ai_emulator.errors import EmulatorError, WeightsUnusable

log = logging.getLogger(__name__)

Json = dict[str, Any]


class Sender(Enum):
    """The program of Cloudflare that sends an error. Each program has its own form of error body.

    Two programs send the errors of Cloudflare's API v4. The legacy router puts `result` last in the
    body and escapes slashes. The newer program puts `result` first.
    """

    LEGACY_API = "API v4, legacy router"
    API = "API v4"
    GATEWAY = "AI Gateway"
    GATEWAY_LIMIT = "AI Gateway, before it runs a model"
    WORKERS_AI = "Workers AI"  # only errors of Workers AI have a request id


@dataclass(frozen=True, slots=True)
class ErrorType:
    """A row of the error table.

    `status`: the HTTP status.
    `code`: Cloudflare's error code.
    `text`: the message, with placeholders `{}`.
    `summary`: the description in the OpenAPI document.
    `kind`: words before `text` in messages of Workers AI, such as `Bad input`.
    `more`: a text that is appended to `text` under the key `description`. Only errors without an
    envelope have this key.
    `description`: the text under the key `description`, if it is not `text` and `more`.
    """

    sender: Sender
    status: int
    code: int
    text: str
    summary: str
    kind: str = ""
    more: str = ""
    description: str = ""


class WireError(EmulatorError):
    """An error that the client receives.

    `type`: the row of the error table.
    `values`: the values for the placeholders in the row's text.
    `entries`: the list of errors in the response; by default, one entry with the row's code and
    text.
    `hint`: what the client has to change, for the log only; the response does not contain it.
    """

    def __init__(
        self, type: ErrorType, *values: object, entries: Sequence[Json] = (), hint: str = ""
    ) -> None:
        super().__init__(type.text.format(*values))
        self.type = type
        self.hint = hint
        self.entries = [*entries] or [{"code": type.code, "message": str(self)}]

    @property
    def message(self) -> str:
        """The error's message as Workers AI writes it: `AiError: KIND: TEXT`."""
        return ": ".join(filter(None, ("AiError", self.type.kind, str(self))))


# fmt: off
_legacy = partial(ErrorType, Sender.LEGACY_API)
NO_ROUTE = _legacy(
    400, 7000, "No route for that URI",
    "No endpoint has this path; or no model has the name in the path of `ai/run`. [recorded]")
CREDENTIALS_MISSING = _legacy(
    400, 9106, "Missing X-Auth-Key, X-Auth-Email or Authorization headers",
    "The request has no credentials. [recorded on other endpoints, inferred here]")
HEADER_MALFORMED = _legacy(
    400, 6003, "Invalid request headers",
    "A header with credentials cannot be parsed. [recorded on other endpoints]")
TOKEN_INVALID = _legacy(
    401, 1000, "Invalid API Token", "The token to verify is not an accepted one. [recorded]")
USER_FORBIDDEN = _legacy(
    403, 9109, "Unauthorized to access requested resource",
    "A token for Workers AI may not read the user's data. [recorded for an account, inferred here]")
TOKEN_MISSING = _legacy(
    400, 1001, 'Missing "Authorization" header',
    "Token verification got a key instead of a token. [recorded, cloudflare-dyndns#40]")

_api = partial(ErrorType, Sender.API)
METHOD_NOT_SUPPORTED = _api(
    405, 7001, "{} not supported for requested URI.",
    "The endpoint exists, but not for this method.")
INVALID_ACCOUNT = _api(
    404, 7003, "Could not route to {}, perhaps your object identifier is invalid?",
    "The account id in the path is not 32 hexadecimal digits.")
AUTHENTICATION_FAILED = _api(
    401, 10000, "Authentication error", "The token is not an accepted one.")
FOREIGN_PAGE = _api(
    403, 9109, "Unauthorized to access requested resource: {}",
    "A web page from another machine called without permission. [the service's code, our text]")
NOT_EMULATED = _api(
    405, 3904, "The emulator does not have {}, only env.AI.run(), env.AI.models(), "
    "env.AI.gateway().run() and env.AI.gateway().getUrl()",
    "The emulator does not have this method of a binding. [ours]")
API_NOT_EMULATED = _api(
    405, 3906, "The emulator does not have {}",
    "The emulator does not have this part of Cloudflare's API. [ours]")
CONTROL_INVALID = _api(
    400, 6007, "{}", "An endpoint of the emulator got an invalid body. [ours]")

_gateway = partial(ErrorType, Sender.GATEWAY)
GATEWAY_NOT_CONFIGURED = _gateway(
    400, 2001, "Please configure AI Gateway in the Cloudflare dashboard",
    "The gateway does not exist: the account id is not 32 hexadecimal digits.")
GATEWAY_UNAUTHORIZED = _gateway(
    401, 2009, "Unauthorized", "The token is not an accepted one. [code recorded, text inferred]")

_limit = partial(ErrorType, Sender.GATEWAY_LIMIT)
GATEWAY_RATE_LIMITED = _limit(
    429, 2003, "Rate limited", "The gateway's rate limit is reached. [recorded]")
GATEWAY_PROVIDER_FAILED = _limit(
    400, 2005, "Failed to get response from provider",
    "The model's name in a request to `compat` names no provider. [recorded]")
GATEWAY_PROVIDER_INVALID = _limit(
    400, 2008, "Invalid provider",
    "The model's name in a request to `compat` begins with an unknown provider. [recorded]")
MODEL_NOT_FOUND = _limit(
    404, 7003, "Model not found: {}",
    "The model's name has the form `author/model`, which models of other providers have. "
    "[recorded for an unknown model]", description="User Input Error")
GATEWAY_CREDITS_SPENT = _limit(
    402, 2021, "Insufficient balance; add money to your gateway or use BYOK",
    "The gateway has no credits left. [recorded]", description="Insufficient AI Gateway credits")
GATEWAY_SPEND_LIMITED = _limit(
    429, 2045, "Spend limit exceeded: rule 'per-user' (cost limit 0.002 per 3600s, fixed) for "
    "internal-workers-ai {}",
    "The requests of an hour have cost more than a rule of the gateway allows. [recorded]")

_ai = partial(ErrorType, Sender.WORKERS_AI)
INCOMPLETE_REQUEST = _ai(
    400, 3003, "Request is missing headers or body: {}",
    "The body is empty, is not JSON, or lacks a part. [documented; the named part is inferred]")
REQUEST_TOO_LARGE = _ai(
    413, 3006, "Request is too large", "The body is larger than the limit.")
REQUEST_TIMEOUT = _ai(
    408, 3046, "Request timeout",
    "The response took longer than allowed. The documentation of errors has the code 3007. "
    "[recorded]",
    "AiError")
REQUEST_ABORTED = _ai(
    408, 3008, "Request was aborted",
    "The server shut down before the response was complete.")
RATE_LIMITED = _ai(
    429, 3021, "rate limiting: inference request per min rate reached",
    "The account sent too many requests in a minute. [recorded]", "AiError")
ACCOUNT_LIMITED = _ai(
    429, 3036, "You have used up your daily free allocation of 10,000 neurons. Please upgrade to "
    "Cloudflare's Workers Paid plan if you would like to continue usage.",
    "The account has used up its neurons of the day (documented form of the error). [documented]",
    "AiError")
OUT_OF_CAPACITY = _ai(
    429, 3040, "Capacity temporarily exceeded, please try again.",
    "All slots are taken and the queue is full.")
INTERNAL_ERROR = _ai(
    500, 3043, "Internal server error", "The server failed; the client cannot correct this.")
RECORDING_MISSING = _ai(500, 3901, "{}", "No recording matches the request. [ours]")
RECORDING_UNUSABLE = _ai(
    500, 3902, "{}", "The recording of this request is damaged or cannot be read. [ours]")
SERVICE_UNREACHABLE = _ai(
    502, 3903, "{}", "The real service, which is being recorded, cannot be reached. [ours]")
NOT_SCRIPTED = _ai(
    500, 3905, "{}", "With `--strict`: no rule of the script applies to the request. [ours]")
DAILY_LIMIT = _ai(
    429, 4006, "you have used up your daily free allocation of 10,000 neurons, please upgrade to "
    "Cloudflare's Workers Paid plan if you would like to continue usage.",
    "The account has used up its neurons of the day (recorded form of the error). [recorded]",
    "AiError")
INVALID_DATA = _ai(
    400, 5004, "Invalid data type for base64 input: {}",
    "A content part holds data that is not text. [documented; where it applies is inferred]")
TEXT_TOO_LONG = _ai(
    400, 3030, "{}",
    "A text, or all texts of a request together, have more tokens than the embedding model "
    "supports. [recorded]", "AiError")
DECISION_REFUSED = _ai(
    422, 5012, "{}",
    "The schema accepts the body, but the decision model refuses it. [recorded]", "AiError")
LORA_UNSUPPORTED = _ai(
    405, 5005, "The model {} does not support LoRa inference",
    "The request asks for a LoRA adapter.")
BAD_INPUT = _ai(400, 5006, "Error: {}", "The body does not match the model's schema.", "Bad input")
NO_SUCH_MODEL = _ai(
    400, 5007, "No such model {} or task", "No model has this name.", "No such model")
CONTEXT_EXCEEDED = _ai(
    413, 5021, "The estimated number of input and maximum output tokens ({}) "
    "exceeded this model context window limit ({}).",
    "The prompt and the longest completion allowed do not fit the model's context.", "Ai")
JSON_MODE_UNMET = _ai(
    403, 5024, "JSON Model couldn't be met",
    "In JSON mode, the completion is not JSON, for example because of `max_tokens` [recorded], "
    "or a JSON schema of the request is too complex for the emulator [inferred].")
JSON_MODE_UNSUPPORTED = _ai(  # {}: `support`, or `suuport` as in 2025 [recorded]
    400, 5025, "This model doesn't {} JSON Schema.",
    "The request asks for JSON mode, which the model does not have. [recorded]")
MESSAGES_UNSUPPORTED = _ai(
    400, 7000, 'Anthropic Messages API is not supported for model "{}"',
    "A model of Workers AI does not have Anthropic's Messages API; the response has no code. "
    "[recorded]")
RETIRED = _ai(
    410, 5028, "{} was deprecated on {}. See the model catalog for alternatives",
    "The service no longer has the model. [recorded]", "Model has been deprecated",
    ": https://developers.cloudflare.com/workers-ai/models/")
PLAN_NEEDED = _ai(
    403, 5035, "Model {0} is not available on the Workers Free plan: Model {0} is not available on "
    "the Workers Free plan. Upgrade to access this model: "
    "https://dash.cloudflare.com/?to=/:account/workers/plans",
    "The account's plan does not include the model. [recorded, 2026-08]")
REFUSED_BY_ENGINE = _ai(
    400, 8007, "{}",
    "The schema accepts the body, but the inference engine rejects it; or the request has "
    "`queueRequest`, and the model has no queue; or the prompt and `max_tokens` exceed the context "
    "of llama-3.3, llama-4-scout or a model on SGLang. [recorded; for `queueRequest`, the code and "
    "the text that two public programs look for]",
    "AiError")
# fmt: on


def error_types(*senders: Sender) -> list[ErrorType]:
    """Returns the rows of the error table whose sender is one of `senders`."""
    rows = [value for value in globals().values() if isinstance(value, ErrorType)]
    return [row for row in rows if row.sender in senders]


_RETIRED_ON = date(2026, 5, 30)  # on this day, the service retired most of its retired models
# The service's errors for these retired models, as recorded, name the models that ran under their
# names at the end.
_RETIRED_AS = {
    "@cf/meta/llama-2-7b-chat-int8": "@cf/meta/llama-3-8b-instruct-awq",
    "@cf/meta/llama-3.1-8b-instruct": "@cf/meta/infire-llama-3.1-8b-instruct",
}


def retired(model: str, day: date = _RETIRED_ON) -> WireError:
    """Returns the error that the service sends for a retired model.

    `model`: the model's name. `day`: the day on which the service retired the model.
    """
    return WireError(RETIRED, _RETIRED_AS.get(model, model), day)


def no_route_in_account(path: str) -> WireError:
    """Returns the error for an unknown path with a malformed account id.

    The response contains two errors, as recorded from the service.
    `path`: the request's path without the prefix `/client/v4`.
    """
    account = WireError(INVALID_ACCOUNT, path)
    return WireError(NO_ROUTE, entries=account.entries + WireError(NO_ROUTE).entries)


def header_malformed(detail_code: int, header: str) -> WireError:
    """Returns the error for malformed credentials in the header named `header`.

    In the response, the key `error_chain` contains a second, more specific error. `detail_code`:
    the code of this second error.
    """
    chain = [{"code": detail_code, "message": f"Invalid format for {header} header"}]
    entry = WireError(HEADER_MALFORMED).entries[0] | {"error_chain": chain}
    return WireError(HEADER_MALFORMED, entries=[entry])


def control_invalid(mistakes: Sequence[str]) -> WireError:
    """Returns the error for an invalid request to an endpoint under `/_emulator/`.

    The response contains one error for each text in `mistakes`.
    """
    entries = [{"code": CONTROL_INVALID.code, "message": mistake} for mistake in mistakes]
    return WireError(CONTROL_INVALID, "\n".join(mistakes), entries=entries)


def refused_by_engine(reason: str, *, kind: str = "BadRequestError") -> WireError:
    """Returns the error that Workers AI sends if its inference engine rejects a request.

    The text of the error is a JSON object with `reason` under the key `message` and `kind` under
    the key `type`, as recorded from the service.
    """
    body = {"object": "error", "message": reason, "type": kind}
    return WireError(
        REFUSED_BY_ENGINE,
        json.dumps(body | {"param": None, "code": 400}, separators=(",", ":")),
    )


@dataclass(frozen=True, slots=True)
class ContextCheck:
    """How the service refuses a request that does not fit the context of the model.

    First, the service compares an estimated number of tokens with the context length. If it is not
    larger, the inference server refuses the request, with the exact number.

    `server`: the server. `estimate`: returns the estimated number of tokens of the prompt.
    `counts_max_tokens`: whether the estimate contains the maximum number of completion tokens.
    """

    server: Literal["vllm", "sglang"]
    estimate: Callable[[], int]
    counts_max_tokens: bool = True


def wire_error(
    error: EngineError | WeightsUnusable, context_check: ContextCheck | None = None
) -> WireError:
    """Converts an error of a generation to the error that the client receives.

    `context_check`: None for a model whose requests only the service itself refuses, as far as we
    know.
    """
    match error:
        case ContextTooLong() if context_check is not None:
            return _context_error(error, context_check)
        case ContextTooLong():
            return WireError(CONTEXT_EXCEEDED, error.num_tokens, error.context_length)
        case TextsTooLong():
            reached = f"Max context reached {error.num_tokens} tokens"
            return WireError(TEXT_TOO_LONG, f"{reached} but model supports only {error.limit}")
        case TextTooLong():
            text = f"Sequence too long: {error.num_tokens} > {error.limit}"
            return WireError(TEXT_TOO_LONG, text)
        case CapacityExceeded():
            return WireError(OUT_OF_CAPACITY)
        case DeadlineExceeded():
            return WireError(REQUEST_TIMEOUT)
        case EngineClosed():
            return WireError(REQUEST_ABORTED)
        case GrammarFailed():
            return WireError(JSON_MODE_UNMET)
        case RequestRejected():
            return refused_by_engine(str(error))
    return WireError(INTERNAL_ERROR)


def _context_error(error: ContextTooLong, check: ContextCheck) -> WireError:
    max_tokens, limit = error.max_tokens, error.context_length
    estimate = check.estimate() + (max_tokens if check.counts_max_tokens else 0)
    if estimate > limit:
        return WireError(CONTEXT_EXCEEDED, estimate, limit)
    if check.server == "sglang":
        return refused_by_engine(_sglang_reason(error))
    if max_tokens >= limit:  # vLLM's text for this case is not known
        return WireError(CONTEXT_EXCEEDED, error.num_tokens, limit)
    return WireError(REFUSED_BY_ENGINE, _vllm_body(max_tokens, limit))


def _vllm_body(max_tokens: int, limit: int) -> str:
    """Returns vLLM's JSON for a request that does not fit the context [recorded, 2026].

    vLLM stops counting the tokens of the prompt at the first one that is too many.
    """
    least = limit - max_tokens + 1
    message = (
        f"This model's maximum context length is {limit} tokens. However, you requested "
        f"{max_tokens} output tokens and your prompt contains at least {least} input tokens, for a "
        f"total of at least {limit + 1} tokens. Please reduce the length of the input prompt or "
        "the number of requested output tokens. "
        f"(parameter=input_tokens, value={least})"
    )
    body = {"message": message, "type": "BadRequestError", "param": "input_tokens", "code": 400}
    return json.dumps({"error": body}, separators=(",", ":"))


def _sglang_reason(error: ContextTooLong) -> str:
    """Returns SGLang's text for a request that does not fit the context [recorded, 2026]."""
    if error.max_tokens > error.context_length:
        return (
            f"max_completion_tokens is too large: {error.max_tokens}. This model supports at most "
            f"{error.context_length} completion tokens."
        )
    return (
        "Requested token count exceeds the model's maximum context length of "
        f"{error.context_length} tokens. You requested a total of {error.num_tokens} tokens: "
        f"{error.num_tokens - error.max_tokens} tokens from the input messages and "
        f"{error.max_tokens} tokens for the completion. Please reduce the number of tokens in the "
        "input messages or the completion to fit within the limit."
    )


@contextmanager
def wire_errors(context_check: ContextCheck | None = None) -> Iterator[None]:
    """Context manager that converts errors of the engine or of a model's weights to WireErrors.

    `context_check`: as for `wire_error`.
    Logs the errors whose cause the response does not contain: an error that becomes INTERNAL_ERROR,
    and a GrammarFailed.
    """
    try:
        yield
    except (EngineError, WeightsUnusable) as error:
        converted = wire_error(error, context_check)
        if converted.type is INTERNAL_ERROR:
            log.error("%s: %s", type(error).__name__, error)
        elif isinstance(error, GrammarFailed):
            log.warning("a completion cannot follow its JSON schema: %s", error)
        raise converted from error
