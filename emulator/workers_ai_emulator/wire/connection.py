"""Gives middleware access to the connection of a request, which a fault can reset.

ASGI has no message that resets a connection. So the server stores the connection in the scope.
"""

from __future__ import annotations

from typing import Any, Protocol

from starlette.types import Scope

_EXTENSION = "workers_ai_emulator.connection"


class Connection(Protocol):
    """The connection on which a request has arrived."""

    def reset(self) -> None:
        """Closes the connection at once with a TCP reset, and discards bytes not sent yet."""


def store_connection(scope: Any, connection: Connection) -> None:
    """Stores the connection of a request in its ASGI scope, for which uvicorn has its own type."""
    scope["extensions"] = {_EXTENSION: connection}


def reset_connection(scope: Scope) -> None:
    """Resets the connection of a request. Then the application need not send a response."""
    scope["extensions"][_EXTENSION].reset()
