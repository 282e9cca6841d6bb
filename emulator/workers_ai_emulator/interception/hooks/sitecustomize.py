"""Makes a Python program connect to the emulator when it calls Cloudflare's API.

`exec` adds this folder to PYTHONPATH, so each Python program under `exec` imports this file when it
starts. The file uses only the standard library, because the emulator's dependencies may be missing
in the program's Python.

For HTTP clients that ignore HTTPS_PROXY, this file patches the resolver and the connect methods of
sockets. The patched resolver returns a placeholder IP address for the host names of Cloudflare's
API. The patched connect methods connect to the TLS port of the proxy of `exec` instead of the
placeholder. The resolver itself cannot return the TLS port, because some libraries, such as anyio,
ignore the port that a resolver returns.

A program may load its own trusted certificates, such as certifi's, into a TLS context. The context
then also gets the certificate authority of `exec`, because this file patches the module `ssl`. The
authority can sign certificates only for Cloudflare's two API hosts.
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
# The patched resolver returns this address. No server listens there, so a connection fails at once
# if its connect method is not patched.
_PLACEHOLDER = ("127.219.83.7", 443)


def _redirect(host: str, port: int) -> None:
    """Makes the program connect to `host` and `port` instead of Cloudflare's API hosts.

    Patches the connect methods of sockets and the resolver, because most Python libraries use them.
    The patched resolver is `_socket.getaddrinfo`, which `socket.getaddrinfo` calls. A patch of
    `socket.getaddrinfo` would not affect libraries that have already imported that function.
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

    patched: Any = socket.socket  # Any, because mypy rejects assignments to methods
    _socket.getaddrinfo = resolve_redirected
    patched.connect, patched.connect_ex = connect_redirected, connect_ex_redirected


class _ImportHook:
    """An import hook that calls a function after the first import of a module.

    `after` maps names of modules to functions. Each function is called with the imported module as
    its argument.
    """

    def __init__(self, after: "dict[str, Any]") -> None:
        self._after = after

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        action = self._after.pop(name, None)
        if action is None:
            return None
        spec = importlib.util.find_spec(name)
        if spec is None or not hasattr(spec.loader, "exec_module"):
            return spec
        loader: Any = spec.loader
        execute = loader.exec_module

        def execute_and_act(module: Any) -> None:
            execute(module)
            action(module)

        loader.exec_module = execute_and_act
        return spec


def _trust(authority: str) -> "Any":
    """Returns a function that takes the module `ssl` as its argument and patches it.

    After the patch, a TLS context that loads a program's own certificates also loads the
    certificate in the file `authority`.
    """

    def patch(module: Any) -> None:
        load = module.SSLContext.load_verify_locations

        def load_with_authority(self: Any, *args: Any, **kwargs: Any) -> None:
            load(self, *args, **kwargs)
            if os.path.exists(authority):
                load(self, authority)

        module.SSLContext.load_verify_locations = load_with_authority

    return patch


def _trust_in_curl(bundle: str) -> "Any":
    """Returns a function that takes the module `pycurl` as its argument and patches it.

    After the patch, pycurl trusts the certificates in the file `bundle`. pycurl itself reads no
    environment variable that names a file of trusted certificates.
    """

    def patch(module: Any) -> None:
        class Curl(module.Curl):  # type: ignore[misc]
            def __init__(self, *args: Any, **kwargs: Any) -> None:
                super().__init__(*args, **kwargs)
                self._trust()

            def reset(self) -> None:
                super().reset()
                self._trust()

            def _trust(self) -> None:
                if os.path.exists(bundle):
                    self.setopt(module.CAINFO, bundle)

        module.Curl = Curl

    return patch


def _warn_if_both_are_imported(one: str, other: str) -> "dict[str, Any]":
    """Returns a dict, for `_ImportHook`, that maps the names of both modules to one function.

    The function is called after the import of each module. If the program has then imported both
    modules, the function prints a warning to stderr.
    """

    def warn(_: Any) -> None:
        if one in sys.modules and other in sys.modules:
            sys.stderr.write(
                "workers-ai-emulator: warning: aiohttp on uvloop is not redirected without "
                "trust_env=True: it calls Cloudflare itself\n"
            )

    return {one: warn, other: warn}


def _act_on_imported(after: "dict[str, Any]") -> None:
    """Calls the functions of the modules that are already imported, for example by a `.pth` file.

    Removes these modules from `after`. A function of several of these modules is called once.
    """
    names = [name for name in after if name in sys.modules]
    actions = {after.pop(name): sys.modules[name] for name in names}
    for action, module in actions.items():
        action(module)


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
    _after = _warn_if_both_are_imported("aiohttp", "uvloop")
    if _authority := os.environ.get("WORKERS_AI_EMULATOR_AUTHORITY"):
        _after["ssl"] = _trust(_authority)
    if _bundle := os.environ.get("CURL_CA_BUNDLE"):
        _after["pycurl"] = _trust_in_curl(_bundle)
    _act_on_imported(_after)
    sys.meta_path.insert(0, _ImportHook(_after))
_run_shadowed_sitecustomize()
