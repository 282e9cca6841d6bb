"""Redirects a Python program's connections from Cloudflare's API to the emulator.

For clients that use no proxy. `exec` puts this folder on PYTHONPATH, so Python imports this file at
its start. Any Python may run it, without this project or its dependencies.

The API's host names resolve to a placeholder address, and a connection to that address is made to
the emulator's TLS port. Resolving to the emulator's own address is not enough: some libraries, such
as anyio, use only the address of a resolved name and not its port.
"""

import _socket
import importlib.machinery
import importlib.util
import os
import socket
import sys
from typing import Any

_HOSTS = ("api.cloudflare.com", "gateway.ai.cloudflare.com")
_PORTS = (443, "443", "https")
_PLACEHOLDER = ("127.219.83.7", 443)  # on loopback, where an unpatched connection fails at once


def _redirect(host: str, port: int) -> None:
    """Patches the resolver and the connect methods, which every library calls in the end.

    `_socket.getaddrinfo` is what `socket.getaddrinfo` calls, which libraries may have imported.
    """
    resolve = _socket.getaddrinfo
    connect, connect_ex = socket.socket.connect, socket.socket.connect_ex

    def resolve_redirected(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        name = host.decode("ascii", "replace") if isinstance(host, bytes) else host
        if port in _PORTS and isinstance(name, str) and name.lower().rstrip(".") in _HOSTS:
            host = _PLACEHOLDER[0]
        return resolve(host, port, *args, **kwargs)

    def target_of(address: Any) -> Any:
        return (host, port) if address == _PLACEHOLDER else address

    def connect_redirected(self: socket.socket, address: Any) -> None:
        connect(self, target_of(address))

    def connect_ex_redirected(self: socket.socket, address: Any) -> int:
        return connect_ex(self, target_of(address))

    patched: Any = socket.socket  # mypy rejects assignments to methods
    _socket.getaddrinfo = resolve_redirected
    patched.connect, patched.connect_ex = connect_redirected, connect_ex_redirected


def _run_shadowed_sitecustomize() -> None:
    """Runs the program's own sitecustomize, which Python would import without this one."""
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry) != here]
    spec = importlib.machinery.PathFinder.find_spec(__name__)
    if spec and spec.loader:
        module = importlib.util.module_from_spec(spec)
        sys.modules[__name__] = module
        spec.loader.exec_module(module)


_host, _, _port = os.environ.get("WORKERS_AI_EMULATOR_TLS_ADDRESS", "").rpartition(":")
if _host and _port.isdigit():
    _redirect(_host, int(_port))
_run_shadowed_sitecustomize()
