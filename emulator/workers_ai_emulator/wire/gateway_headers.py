"""The headers in responses of AI Gateway."""

from __future__ import annotations

import secrets
import time
import uuid

_BASE32 = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # the digits of ULIDs [Crockford's Base32]


def log_header() -> dict[str, str]:
    """Returns the header with the id of AI Gateway's log entry: a new ULID [recorded]."""
    return {"cf-aig-log-id": _ulid()}


def limit_headers() -> dict[str, str]:
    """Returns the headers of the error that a limit of the gateway is reached.

    The names are recorded; the forms of all values except the log's id are inferred.
    """
    return {
        "cf-aig-event-id": _ulid(),
        **log_header(),
        "cf-aig-request-id": str(uuid.uuid4()),
        "cf-aig-step": "0",
    }


def _ulid() -> str:
    value = int(time.time() * 1000) << 80 | secrets.randbits(80)
    return "".join(_BASE32[value >> shift & 31] for shift in range(125, -5, -5))
