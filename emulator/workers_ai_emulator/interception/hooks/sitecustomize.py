"""Python imports this at its start: connections to Cloudflare's API go to the emulator.

For programs that go by no proxy. `exec` puts this folder on PYTHONPATH; any Python may come along,
with nothing of this project installed. Names are resolved to an address that nobody has, and
connections to it are made to the emulator's TLS port instead: some libraries, as anyio does, keep
of what a name is resolved to only the address, not the port.
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
_NOBODY = ("127.219.83.7", 443)  # on loopback, so that one we miss fails at once


def _redirect(host: str, port: int) -> None:
    """Patch what every library ends in: the resolver in C, below the module that they import."""
    resolve = _socket.getaddrinfo
    connect, connect_ex = socket.socket.connect, socket.socket.connect_ex

    def resolve_redirected(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        name = host.decode("ascii", "replace") if isinstance(host, bytes) else host
        if port in _PORTS and isinstance(name, str) and name.lower().rstrip(".") in _HOSTS:
            host = _NOBODY[0]
        return resolve(host, port, *args, **kwargs)

    def reachable(address: Any) -> Any:
        return (host, port) if address == _NOBODY else address

    def connect_redirected(self: socket.socket, address: Any) -> None:
        connect(self, reachable(address))

    def connect_ex_redirected(self: socket.socket, address: Any) -> int:
        return connect_ex(self, reachable(address))

    patched: Any = socket.socket  # mypy would have methods stay as they are
    _socket.getaddrinfo = resolve_redirected
    patched.connect, patched.connect_ex = connect_redirected, connect_ex_redirected


def _run_hidden() -> None:
    """Run the sitecustomize that this one hides, as Python would have done."""
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
_run_hidden()
