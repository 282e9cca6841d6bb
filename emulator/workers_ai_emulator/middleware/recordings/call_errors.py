"""Finds out which errors without a request id are recorded, because they are about the call.

Every recorded error of Workers AI has the header `cf-ai-req-id`. Errors of AI Gateway, and the
API's error for an unknown model in the path of `ai/run`, do not have it. Nor do errors of
Cloudflare's edge and API, which say nothing about the call: an invalid token, a wrong account id,
or an HTML page for an outage.
"""

from __future__ import annotations

from typing import Any

from workers_ai_emulator.json_values import json_or_none

_ACCOUNT_CODES = (2001, 2009)  # the gateway does not exist, or the token is not accepted
_NO_ROUTE = 7000  # the API sends it for an unknown model in the path
_UNKNOWN_MODEL = "Model not found"


def is_call_error(body: bytes) -> bool:
    """Returns whether the body of an error response is such an error.

    False for errors about the account or its token.
    """
    match json_or_none(body):
        case {"name": "AiGatewayError", "internalCode": int(code)}:
            return code not in _ACCOUNT_CODES
        case {"success": False, "errors": [error, *_]} | {"success": False, "error": [error, *_]}:
            return _is_about_call(error)
        case {"type": "error", "error": {"type": "not_found_error", "message": str(text)}}:
            return text.startswith(_UNKNOWN_MODEL)  # the form of Anthropic's Messages API
    return False


def _is_about_call(error: Any) -> bool:
    match error:
        case {"code": 7003, "message": str(text)}:  # the API sends 7003 for a wrong account id
            return text.startswith(_UNKNOWN_MODEL)
        case {"code": int(code)}:
            return code == _NO_ROUTE or (2000 <= code < 3000 and code not in _ACCOUNT_CODES)
    return False
