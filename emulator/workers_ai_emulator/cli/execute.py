"""`exec`: a command whose calls to Cloudflare reach the emulator."""

from __future__ import annotations

import asyncio
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated
from urllib.request import getproxies_environment

import platformdirs
import typer
from typer.exceptions import TyperException

from workers_ai_emulator.cli.options import flag
from workers_ai_emulator.cli.output import print_line, tell
from workers_ai_emulator.errors import CommandError
from workers_ai_emulator.settings import Settings

if TYPE_CHECKING:  # slow to import
    from trustme import CA

    from workers_ai_emulator.interception.foreground import Foreground
    from workers_ai_emulator.interception.proxy import Address, Proxy

_DEFAULTS = Settings()
_NOT_FOUND, _NOT_EXECUTABLE = 127, 126  # as shells say it


def execute(
    command: Annotated[
        list[str] | None,
        typer.Argument(metavar="COMMAND...", help="What to run, with its own arguments."),
    ] = None,
    host: Annotated[str, flag("host", "Where an emulator may be running.")] = _DEFAULTS.host,
    port: Annotated[
        int, flag("port", "Its port; 0 always starts one.", min=0, max=65535)
    ] = _DEFAULTS.port,
    print_env: Annotated[
        bool, typer.Option("--print-env", help="Print what is set for the command.")
    ] = False,
) -> None:
    """Run a command, unchanged, whose calls to Cloudflare's API the emulator answers.

    Where no emulator is running, one is started, and ends with the command. All that is changed is
    the command's environment; what it calls besides https://api.cloudflare.com and
    https://gateway.ai.cloudflare.com is passed through. Ends with the command's exit code.
    """
    if not command and not print_env:
        raise TyperException("name a command to run, or give --print-env")
    from workers_ai_emulator.interception.companion import companion  # slow to import
    from workers_ai_emulator.interception.proxy import Address

    reachable = Settings(host=host).base_url_host.strip("[]")
    with companion(Address(reachable, port), os.environ, tell) as emulator:
        try:
            status = asyncio.run(_run(command or [], emulator, is_shown=print_env))
        except OSError as error:
            raise CommandError(f"cannot stand in for Cloudflare: {error}") from error
    raise SystemExit(status)


async def _run(command: Sequence[str], emulator: Address, *, is_shown: bool) -> int:
    from workers_ai_emulator.interception.certificates import authority, server_context
    from workers_ai_emulator.interception.foreground import Foreground
    from workers_ai_emulator.interception.proxy import Proxy

    foreground = Foreground()
    ca = authority(_certificates_folder())
    async with Proxy(emulator, server_context(ca), getproxies_environment()) as proxy:
        with TemporaryDirectory(prefix="workers-ai-emulator-") as folder:
            variables = _variables(ca, Path(folder), emulator, proxy)
            if is_shown:
                for name, value in variables.items():
                    print_line(f"export {name}={shlex.quote(value)}")
            return await _run_command(command, variables, foreground) if command else 0


def _variables(ca: CA, folder: Path, emulator: Address, proxy: Proxy) -> dict[str, str]:
    """What to set for the command, with the files that this names."""
    from workers_ai_emulator.interception.certificates import trusted, trusted_besides
    from workers_ai_emulator.interception.environment import Interception, environment

    bundle, node_bundle = folder / "trusted.pem", folder / "trusted-by-node.pem"
    bundle.write_bytes(trusted(ca, os.environ))
    node_bundle.write_bytes(trusted_besides(ca, os.environ))
    addresses = emulator, proxy.address, proxy.tls_address
    return environment(Interception(*addresses, bundle, node_bundle), os.environ)


async def _run_command(
    command: Sequence[str], variables: dict[str, str], foreground: Foreground
) -> int:
    try:
        return await foreground.run(command, os.environ | variables)
    except OSError as error:
        tell(f"workers-ai-emulator: cannot run {command[0]}: {error.strerror}")
        return _NOT_FOUND if isinstance(error, FileNotFoundError) else _NOT_EXECUTABLE


def _certificates_folder() -> Path:
    """Raises CommandError."""
    try:
        return platformdirs.user_cache_path("workers-ai-emulator") / "certificates"
    except RuntimeError as error:  # a container's user may have no home
        raise CommandError("there is no home to keep certificates in: set HOME") from error
