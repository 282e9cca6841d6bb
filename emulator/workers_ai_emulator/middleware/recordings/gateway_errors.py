"""Distinguishes errors of AI Gateway, which are recorded, from other errors without a request id.

Every recorded error of Workers AI has the header `cf-ai-req-id`. Errors of AI Gateway, such as the
one for an unknown model, do not have it. Nor do errors of Cloudflare's edge and API, which say
nothing about the call: an invalid token, a wrong account id, or an HTML page for an outage.
"""

from __future__ import annotations

import json
from typing import Any

_ACCOUNT_CODES = (2001, 2009)  # the gateway does not exist, or the token is not accepted
_UNKNOWN_MODEL = "Model not found"


def is_gateway_error(body: bytes) -> bool:
    """Returns whether the body of an error response is an error of AI Gateway about the call.

    False for errors about the account or its token.
    """
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return False
    match value:
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
            return 2000 <= code < 3000 and code not in _ACCOUNT_CODES
    return False
