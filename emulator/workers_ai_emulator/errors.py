"""Everything that goes wrong, one class each.

    EmulatorError
    ├── CommandError              a command cannot do its work: one line, exit 1
    │   ├── StartError                a setting or a machine that cannot serve
    │   │   ├── SettingInvalid
    │   │   ├── AddressUnavailable
    │   │   └── WeightsUnusable           missing, unreadable, no GGUF, too large for the memory
    │   ├── PullFailed                weights cannot be had
    │   └── ModelUnknown              no model has the name that a command was given
    ├── TransferInterrupted       a download broke off and may go on
    ├── GgufInvalid               a file is no model that can be run
    ├── EngineError               what computes has failed: the requests of that call fail
    │   ├── Interrupted               it was told to stop: nobody waits for that call
    │   └── UpstreamFailed            the server that computes for us did not
    └── WireError                  has a wire form: status, code and message
        ├── CloudflareError            said by Cloudflare's API front
        │   ├── NoRoute                400  7000
        │   │   └── NoRouteInAccount   400  7003 and 7000
        │   ├── MethodNotSupported     405  7001
        │   ├── InvalidAccount         404  7003
        │   ├── CredentialsMissing     400  9106
        │   ├── HeaderMalformed        400  6003 with a chain
        │   ├── AuthenticationFailed   401  10000
        │   ├── ForeignOrigin          403  9109
        │   ├── TokenInvalid           401  1000
        │   ├── TokenMissing           400  1001
        │   └── ControlInvalid         400  6007, of our own endpoints
        ├── GatewayError          said by AI Gateway before it asks Workers AI
        │   ├── GatewayNotConfigured   400  2001
        │   └── GatewayUnauthorized    401  2009
        └── AiError               said by Workers AI; the message ends in the request's id
            ├── IncompleteRequest      400  3003
            ├── RequestTooLarge        413  3006
            ├── RequestTimeout         408  3007
            ├── RequestAborted         408  3008
            ├── RateLimited            429  3021
            ├── AccountLimited         429  3036
            ├── OutOfCapacity          429  3040
            ├── InternalError          500  3043
            ├── RecordingMissing       500  3901, ours
            ├── RecordingUnusable      500  3902, ours
            ├── ServiceUnreachable     502  3903, ours
            ├── DailyLimit             429  4006
            ├── InvalidData            400  5004
            ├── LoraUnsupported        405  5005
            ├── BadInput               400  5006
            ├── NoSuchModel            400  5007
            ├── ContextExceeded        413  5021
            ├── JsonModeUnsupported    400  5025
            ├── Retired                410  5028
            └── RefusedByEngine        400  8007

Texts and codes are the service's: recorded ones first, else those of Cloudflare's error table
(developers.cloudflare.com/workers-ai/platform/errors).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any


class EmulatorError(Exception):
    """Anything this package raises on purpose."""


class CommandError(EmulatorError):
    """A command cannot do its work. The message names cause and next step, a line for each."""


class StartError(CommandError):
    """The server cannot start."""


class SettingInvalid(StartError):
    """A flag or variable has a value that cannot be used."""


class AddressUnavailable(StartError):
    """The server cannot listen where it was told to."""


class WeightsUnusable(StartError):
    """A model's file cannot be loaded."""


class PullFailed(CommandError):
    """Weights cannot be downloaded. What has come is kept."""


class ModelUnknown(CommandError):
    """The catalogue has no model of this name."""


class TransferInterrupted(EmulatorError):
    """A download broke off, or could not begin, and may be tried again."""


class GgufInvalid(EmulatorError):
    """A file is no GGUF file that can be run. The message is one line about "it", the file."""


class EngineError(EmulatorError):
    """llama.cpp refused a call, or what computes in its place failed."""


class Interrupted(EngineError):
    """A call of llama.cpp was broken off, since all who waited for it have left."""


class UpstreamFailed(EngineError):
    """The server that computes for us cannot be reached, or broke off, or is no such server."""


class WireError(EmulatorError):
    """An error with a form on the wire."""

    status: int
    code: int

    @property
    def message(self) -> str:
        return str(self)


class CloudflareError(WireError):
    """An error of the API front: it never reached a model, so it has no request id.

    The front is two programs, by the recorded bodies: an old router puts `result` last and escapes
    slashes, a newer one puts it first.
    """

    is_of_old_router = False

    @property
    def entries(self) -> list[dict[str, Any]]:
        """The envelope's list of errors."""
        return [{"code": self.code, "message": self.message}]


class NoRoute(CloudflareError):
    """There is no such endpoint."""

    status, code = 400, 7000
    is_of_old_router = True

    def __init__(self) -> None:
        super().__init__("No route for that URI")


class NoRouteInAccount(NoRoute):
    """There is no such endpoint, and the account id in its path is malformed: two errors in one.

    `path` begins behind `/client/v4`, as recorded.
    """

    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path

    @property
    def entries(self) -> list[dict[str, Any]]:
        return InvalidAccount(self._path).entries + super().entries


class MethodNotSupported(CloudflareError):
    """The endpoint exists, for other methods."""

    status, code = 405, 7001

    def __init__(self, method: str) -> None:
        super().__init__(f"{method} not supported for requested URI.")


class InvalidAccount(CloudflareError):
    """The account id is not 32 hexadecimal digits; `path` is the one that was asked for."""

    status, code = 404, 7003

    def __init__(self, path: str) -> None:
        super().__init__(f"Could not route to {path}, perhaps your object identifier is invalid?")


class CredentialsMissing(CloudflareError):
    """There is no header that names the caller. [recorded on other endpoints, inferred here]"""

    status, code = 400, 9106
    is_of_old_router = True

    def __init__(self) -> None:
        super().__init__("Missing X-Auth-Key, X-Auth-Email or Authorization headers")


class HeaderMalformed(CloudflareError):
    """A header names the caller in a form that cannot be read. [recorded on other endpoints]"""

    status, code = 400, 6003
    is_of_old_router = True

    def __init__(self, detail_code: int, header: str) -> None:
        super().__init__("Invalid request headers")
        self._chain = [{"code": detail_code, "message": f"Invalid format for {header} header"}]

    @property
    def entries(self) -> list[dict[str, Any]]:
        return [super().entries[0] | {"error_chain": self._chain}]


class AuthenticationFailed(CloudflareError):
    """The token is not one of those allowed."""

    status, code = 401, 10000

    def __init__(self) -> None:
        super().__init__("Authentication error")


class ForeignOrigin(CloudflareError):
    """A page in a browser calls that is not of this machine. [a known code; ours otherwise]"""

    status, code = 403, 9109

    def __init__(self, origin: str) -> None:
        super().__init__(
            f"Unauthorized to access requested resource: {origin} is not of this machine. "
            f"To let its pages in, start the emulator with --allow-origin {origin}"
        )


class TokenInvalid(CloudflareError):
    """The token that is to be verified is not one of those allowed. [recorded message and code]"""

    status, code = 401, 1000
    is_of_old_router = True

    def __init__(self) -> None:
        super().__init__("Invalid API Token")


class TokenMissing(CloudflareError):
    """A key came where a token is to be verified. [recorded, kissgyorgy/cloudflare-dyndns#40]"""

    status, code = 400, 1001
    is_of_old_router = True

    def __init__(self) -> None:
        super().__init__('Missing "Authorization" header')


class ControlInvalid(CloudflareError):
    """One of our own endpoints was sent what it cannot use: an entry for each mistake. [ours]"""

    status, code = 400, 6007

    def __init__(self, mistakes: Sequence[str]) -> None:
        super().__init__("\n".join(mistakes))
        self._mistakes = mistakes

    @property
    def entries(self) -> list[dict[str, Any]]:
        return [{"code": self.code, "message": mistake} for mistake in self._mistakes]


class GatewayError(WireError):
    """An error of AI Gateway itself."""


class GatewayNotConfigured(GatewayError):
    """There is no such gateway: here, the account id is not 32 hexadecimal digits."""

    status, code = 400, 2001

    def __init__(self) -> None:
        super().__init__("Please configure AI Gateway in the Cloudflare dashboard")


class GatewayUnauthorized(GatewayError):
    """The token is not one of those allowed. [code recorded, text inferred]"""

    status, code = 401, 2009

    def __init__(self) -> None:
        super().__init__("Unauthorized")


class AiError(WireError):
    """An error of Workers AI, behind the front.

    Its text is the `description`; `kind`, where there is one, stands before it in the message.
    """

    kind: str | None = None

    @property
    def description(self) -> str:
        return str(self)

    @property
    def message(self) -> str:
        return ": ".join(filter(None, ("AiError", self.kind, self.description)))


class IncompleteRequest(AiError):
    """The body is empty or no JSON. [documented text; `what` inferred]"""

    status, code = 400, 3003

    def __init__(self, what: str) -> None:
        super().__init__(f"Request is missing headers or body: {what}")


class RequestTooLarge(AiError):
    """The body is larger than we read."""

    status, code = 413, 3006

    def __init__(self) -> None:
        super().__init__("Request is too large")


class RequestTimeout(AiError):
    """The answer took longer than allowed. [recorded message; documented status and code]"""

    status, code = 408, 3007
    kind = "AiError"

    def __init__(self) -> None:
        super().__init__("Request timeout")


class RequestAborted(AiError):
    """The request was given up before its answer, by a server that is closing."""

    status, code = 408, 3008

    def __init__(self) -> None:
        super().__init__("Request was aborted")


class RateLimited(AiError):
    """Too many requests in a minute. [recorded]"""

    status, code = 429, 3021
    kind = "AiError"

    def __init__(self) -> None:
        super().__init__("rate limiting: inference request per min rate reached")


class AccountLimited(AiError):
    """The account has spent its neurons of the day, by Cloudflare's table. [documented]"""

    status, code = 429, 3036
    kind = "AiError"

    def __init__(self) -> None:
        super().__init__(
            "You have used up your daily free allocation of 10,000 neurons. Please upgrade to "
            "Cloudflare's Workers Paid plan if you would like to continue usage."
        )


class OutOfCapacity(AiError):
    """All slots are taken and the queue is full."""

    status, code = 429, 3040

    def __init__(self) -> None:
        super().__init__("Capacity temporarily exceeded, please try again.")


class InternalError(AiError):
    """Something broke that the client cannot mend."""

    status, code = 500, 3043

    def __init__(self) -> None:
        super().__init__("Internal server error")


class RecordingMissing(AiError):
    """No cassette has the call, and nothing else answers it; the message has the nearest one."""

    status, code = 500, 3901


class RecordingUnusable(AiError):
    """A cassette is damaged, or cannot be read."""

    status, code = 500, 3902


class ServiceUnreachable(AiError):
    """The real service, which is to be recorded, cannot be asked."""

    status, code = 502, 3903


class DailyLimit(AiError):
    """The account has spent its neurons of the day, as it was on the wire. [recorded]"""

    status, code = 429, 4006
    kind = "AiError"

    def __init__(self) -> None:
        super().__init__(
            "you have used up your daily free allocation of 10,000 neurons, please upgrade to "
            "Cloudflare's Workers Paid plan if you would like to continue usage."
        )


class InvalidData(AiError):
    """A content part holds data that is no text. [documented text; where it applies inferred]"""

    status, code = 400, 5004

    def __init__(self, data_type: str) -> None:
        super().__init__(f"Invalid data type for base64 input: {data_type}")


class LoraUnsupported(AiError):
    """The request asks for an adapter."""

    status, code = 405, 5005

    def __init__(self, model: str) -> None:
        super().__init__(f"The model {model} does not support LoRa inference")


class BadInput(AiError):
    """The body does not fit the model's schema; `reason` is the validator's text."""

    status, code = 400, 5006
    kind = "Bad input"

    def __init__(self, reason: str) -> None:
        super().__init__(f"Error: {reason}")


class NoSuchModel(AiError):
    """No model has this name."""

    status, code = 400, 5007
    kind = "No such model"

    def __init__(self, model: str) -> None:
        super().__init__(f"No such model {model} or task")


class ContextExceeded(AiError):
    """Prompt and longest completion do not fit the model's context."""

    status, code = 413, 5021
    kind = "Ai"

    def __init__(self, num_tokens: int, context_length: int) -> None:
        super().__init__(
            f"The estimated number of input and maximum output tokens ({num_tokens}) "
            f"exceeded this model context window limit ({context_length})."
        )


class JsonModeUnsupported(AiError):
    """The request asks for JSON mode, which Llama 2 never had. The typo is the service's."""

    status, code = 400, 5025

    def __init__(self) -> None:
        super().__init__("This model doesn't suuport JSON Schema.")


class Retired(AiError):
    """The service no longer has the model. [recorded; bindings are told where the catalog is]"""

    status, code = 410, 5028
    kind = "Model has been deprecated"

    def __init__(self, model: str) -> None:
        super().__init__(
            f"{model} was deprecated on 2026-05-30. See the model catalog for alternatives"
        )

    @property
    def message(self) -> str:
        return f"AiError: {self.kind}: {self}"

    @property
    def description(self) -> str:
        return f"{self}: https://developers.cloudflare.com/workers-ai/models/"


class RefusedByEngine(AiError):
    """Valid by the schema, but not for the engine, whose own error is passed on."""

    status, code = 400, 8007
    kind = "AiError"

    def __init__(self, reason: str) -> None:
        body = {
            "object": "error",
            "message": reason,
            "type": "BadRequestError",
            "param": None,
            "code": 400,
        }
        super().__init__(json.dumps(body, separators=(",", ":")))
