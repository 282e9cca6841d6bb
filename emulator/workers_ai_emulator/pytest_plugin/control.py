"""Sends requests to an emulator's endpoints under `/_emulator/`, without an HTTP client.

A test may replace HTTP clients, `socket.socket` or its methods, to record or to refuse the requests
of the tested program. This module uses Python's built-in socket type, which such a test does not
replace, so that it neither records nor refuses the requests of the fixtures.
"""

from __future__ import annotations

import json

# Imported before the tests run: a test may replace the names in the module `socket`.
from _socket import AF_INET, AF_INET6, SOCK_STREAM, socket
from typing import Any

_RESPONSE_TIMEOUT_S = 30.0
_MAX_SHOWN = 80  # the maximum number of characters that an error message shows of a response


class ControlError(ValueError):
    """The emulator rejected a request. The message contains the emulator's error messages."""


class NotAnEmulator(OSError):
    """The server at the URL responds, but not like an emulator. The message names the URL."""


def request_json(root: str, token: str, method: str, path: str, body: object = None) -> Any:
    """Sends a request to the emulator at the URL `root`, and returns the JSON in the response.

    Raises ControlError if the emulator rejects the request, OSError if the connection fails,
    ConnectionError if the emulator closes the connection without a response body, and NotAnEmulator
    if another program responds.
    """
    __tracebackhide__ = True  # pytest then shows the line of the test
    head, content = _exchange(root, token, method, path, body)
    try:
        status = int(head.split()[1])
        value = json.loads(content)
        if status < 400:
            return value
        messages = _messages(value)
    except (ValueError, LookupError, TypeError):
        start = ascii(head.partition(b"\r\n")[0][:_MAX_SHOWN].decode("latin-1"))
        raise NotAnEmulator(
            f"the server at {root} answered {method} {path} with {start}: "
            "is it workers-ai-emulator?"
        ) from None
    raise ControlError(messages)


def _messages(value: Any) -> str:
    """Returns the messages of an emulator's error. Raises LookupError for any other value."""
    match value:
        case {"errors": [*entries]}:
            return "\n".join(entry["message"] for entry in entries)
        case {"error": str(message)}:
            return message
    raise LookupError


def _exchange(root: str, token: str, method: str, path: str, body: object) -> tuple[bytes, bytes]:
    """Returns the head and the body of the response."""
    host, _, port = root.removeprefix("http://").rpartition(":")
    data = b"" if body is None else json.dumps(body).encode()
    head = [
        f"{method} {path} HTTP/1.0",  # the server closes the connection after its response
        f"host: {host}:{port}",
        f"authorization: Bearer {token}",
        f"content-length: {len(data)}",
    ]
    connection = socket(AF_INET6 if host.startswith("[") else AF_INET, SOCK_STREAM)
    try:
        connection.settimeout(_RESPONSE_TIMEOUT_S)
        connection.connect((host.strip("[]"), int(port)))
        connection.sendall("\r\n".join([*head, "", ""]).encode() + data)
        response = b"".join(iter(lambda: connection.recv(2**16), b""))
    finally:
        connection.close()
    response_head, _, content = response.partition(b"\r\n\r\n")
    if not content:
        raise ConnectionError("it closed the connection")
    return response_head, content
