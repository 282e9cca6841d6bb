"""Defines faults: errors, broken responses and delays that a user requests for tests."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Literal, get_args

from pydantic import ConfigDict, Field, ValidationInfo, field_validator

from workers_ai_emulator.wire import errors
from workers_ai_emulator.wire.errors import ErrorType, Sender, WireError
from workers_ai_emulator.wire.validation import BoundedModel

MAX_MESSAGE_LENGTH = 2000  # characters of the option `message`

ErrorName = Literal[
    "capacity",
    "rate-limit",
    "daily-limit",
    "account-limited",
    "paid-plan",
    "timeout",
    "aborted",
    "retired",
    "auth",
    "internal",
    "gateway-rate-limit",
    "gateway-credits",
    "gateway-spend-limit",
    "error",
]
NetworkName = Literal["reset", "edge-error"]
BodyName = Literal["broken-json", "cut-body"]
BreakName = Literal["cut-mid-event", "cut-mid-utf8", "stall"]
StreamName = Literal[BreakName, "no-done", "double-done", "json-instead-of-stream"]
FaultName = Literal[ErrorName, NetworkName, BodyName, StreamName, "slow-first-token"]

# The faults for which the client gets an error in the form of the endpoint.
ERRORS = frozenset(get_args(ErrorName))
# The faults that replace the whole response, so no model needs to run.
WITHOUT_MODEL = ERRORS | frozenset(get_args(NetworkName))
BREAKS = frozenset(get_args(BreakName))
_OF_STREAMS = frozenset(get_args(StreamName))

# The faults that have an option. All faults except slow-first-token have the option `delay`.
_FAULTS_WITH: dict[str, tuple[str, ...]] = {
    "after_events": (*get_args(BreakName), *get_args(BodyName)),
    "seconds": ("slow-first-token",),
    "status": ("error", "edge-error"),
    "code": ("error",),
    "message": ("error",),
}
_DEFAULT_STATUS = {"error": 500, "edge-error": 502}

_ERROR_TYPES = {
    "capacity": errors.OUT_OF_CAPACITY,
    "rate-limit": errors.RATE_LIMITED,
    "daily-limit": errors.DAILY_LIMIT,
    "account-limited": errors.ACCOUNT_LIMITED,
    "timeout": errors.REQUEST_TIMEOUT,
    "aborted": errors.REQUEST_ABORTED,
    "internal": errors.INTERNAL_ERROR,
    "gateway-rate-limit": errors.GATEWAY_RATE_LIMITED,
    "gateway-credits": errors.GATEWAY_CREDITS_SPENT,
}


class Fault(BoundedModel):
    """A fault and its options.

    `after_events`: the number of complete events that are sent before the stream breaks.
    `seconds`: the delay of the first token, for the fault slow-first-token.
    `delay`: for all other faults, the number of seconds before the response begins.
    `status`, `code`, `message`: the HTTP status, Cloudflare's error code and the text of the faults
    `error` and `edge-error`. None if the user has set no value: see `http_status` and `error_of`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    fault: FaultName
    after_events: int = Field(default=1, ge=0)
    seconds: float = Field(default=2.0, gt=0, le=3600)
    delay: float = Field(default=0.0, ge=0, le=3600)
    status: int | None = Field(default=None, ge=400, le=599)
    code: int | None = Field(default=None, ge=0, le=999_999)
    message: str | None = Field(default=None, max_length=MAX_MESSAGE_LENGTH)

    @field_validator(*_FAULTS_WITH)
    @classmethod
    def _check_option(cls, value: Any, info: ValidationInfo) -> Any:
        faults = _FAULTS_WITH[info.field_name or ""]
        if "fault" in info.data and info.data["fault"] not in faults:
            raise ValueError(f"this is for {', '.join(faults)}")
        return value

    @field_validator("delay")
    @classmethod
    def _check_delay(cls, value: float, info: ValidationInfo) -> float:
        if info.data.get("fault") == "slow-first-token":
            raise ValueError("slow-first-token has the option `seconds` instead")
        return value

    @property
    def http_status(self) -> int:
        """The HTTP status of the faults `error` and `edge-error`."""
        return self.status or _DEFAULT_STATUS[self.fault]

    @property
    def wait_s(self) -> float:
        """The number of seconds before the response begins."""
        return self.seconds if self.fault == "slow-first-token" else self.delay

    def fits(self, *, is_stream: bool) -> bool:
        """Returns whether the fault can be applied to a call.

        Some faults change a stream, so they can be applied only to calls that request a stream.
        """
        return is_stream or self.fault not in _OF_STREAMS


def error_of(fault: Fault, model: str | None, *, is_gateway: bool) -> WireError:
    """Returns the error of a fault whose name is in ERRORS.

    `model`: the name of the requested model, if it is known. `is_gateway`: whether the client has
    called AI Gateway, which has an error of its own for invalid tokens.
    """
    match fault.fault:
        case "retired":
            return errors.retired(model or "undefined")
        case "paid-plan":
            return WireError(errors.PLAN_NEEDED, model or "undefined")
        case "gateway-spend-limit":
            return WireError(errors.GATEWAY_SPEND_LIMITED, model or "undefined")
        case "auth":
            gateway, api = errors.GATEWAY_UNAUTHORIZED, errors.AUTHENTICATION_FAILED
            return WireError(gateway if is_gateway else api)
        case "error":
            return _own_error(fault)
    return WireError(_ERROR_TYPES[fault.fault])


def _own_error(fault: Fault) -> WireError:
    """Returns an error of Workers AI with the status, the code and the text that the user set.

    By default, the code is that of internal errors, and the text is the name of the status.
    """
    status = fault.http_status
    code = errors.INTERNAL_ERROR.code if fault.code is None else fault.code
    text = _phrase(status) if fault.message is None else fault.message
    row = ErrorType(Sender.WORKERS_AI, status, code, "{}", "An error that a fault requested.")
    return WireError(row, text)


def _phrase(status: int) -> str:
    """Returns the name of an HTTP status, such as `Bad Gateway`."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:  # a status that HTTP does not define
        return f"Error {status}"
