"""Redirects a Python program's connections from Cloudflare's API to the emulator.

`exec` adds this folder to PYTHONPATH, so each Python program that it runs imports this file at its
start. The patches are for HTTP clients that ignore HTTPS_PROXY. The file uses only the standard
library, because the program's Python need not have the emulator's dependencies.

The patched resolver resolves the API's host names to a placeholder IP address. The patched connect
methods connect to the TLS port of the proxy of `exec` instead of the placeholder. The resolver
cannot return that port itself: some libraries, such as anyio, ignore the port that it returns.
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
# No server listens on this loopback address, so an unpatched connection fails at once.
_PLACEHOLDER = ("127.219.83.7", 443)


def _redirect(host: str, port: int) -> None:
    """Patches the resolver and the connect methods of sockets, which all Python libraries use.

    Patches `_socket.getaddrinfo`, because a library may already have imported
    `socket.getaddrinfo`, which calls it.
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
    """Runs the user's own `sitecustomize` module, if there is one.

    Python imports only the first module of this name on its path, which is this file.
    """
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
