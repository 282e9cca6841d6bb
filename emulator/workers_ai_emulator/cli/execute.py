"""The command `exec`: runs a program, and routes its Cloudflare API requests to the emulator."""

from __future__ import annotations

import os
import secrets
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import platformdirs
import typer
from typer.exceptions import TyperException

from workers_ai_emulator.cli.options import (
    DEFAULTS,
    option,
    reachable_host,
    settings_in_environment,
)
from workers_ai_emulator.cli.output import print_line, print_to_stderr
from workers_ai_emulator.errors import CommandError
from workers_ai_emulator.settings.declaration import env_var
from workers_ai_emulator.wire.accounts import ACCOUNT_MISTAKE, is_account_id

if TYPE_CHECKING:  # these imports are slow, and only type annotations need them
    from trustme import CA

    from workers_ai_emulator.interception.foreground import Foreground
    from workers_ai_emulator.interception.proxy import Address, Proxy
    from workers_ai_emulator.interception.unmatched import UnmatchedCalls

# Exit codes if the command does not exist (127) or cannot be executed (126), as in shells.
_NOT_FOUND, _NOT_EXECUTABLE = 127, 126
# Exit code of `--strict` if the command succeeds, although some of its calls were unmatched. Shells
# and common test runners do not use this code.
_UNMATCHED = 99


def execute(
    command: Annotated[
        list[str] | None,
        typer.Argument(metavar="COMMAND...", help="Command to run, with its arguments."),
    ] = None,
    host: Annotated[
        str, option("host", help="Host of an emulator that may already run.")
    ] = DEFAULTS.host,
    port: Annotated[
        int, option("port", help="Port of that emulator; 0 always starts a new one.")
    ] = DEFAULTS.port,
    strict: Annotated[
        bool,
        option(
            "strict",
            help="Calls that no rule of the script and no recording answers get an error, and exec "
            f"lists them and exits with {_UNMATCHED}.",
        ),
    ] = DEFAULTS.strict,
    account: Annotated[
        str | None,
        typer.Option(
            "--account", metavar="ID", help="Account id that all redirected calls belong to."
        ),
    ] = None,
    print_env: Annotated[
        bool, typer.Option("--print-env", help="Print the environment variables of the command.")
    ] = False,
) -> None:
    """Run a command, and redirect its requests for Cloudflare's API to the emulator.

    If no emulator runs at the given host and port, starts one, and stops it when the command
    exits. Sets environment variables for the command only. Redirects the requests to
    https://api.cloudflare.com and https://gateway.ai.cloudflare.com; requests to other hosts reach
    those hosts. Exits with the command's exit code.
    """
    if sys.platform == "win32":
        raise CommandError(
            "exec does not work on Windows: run it in WSL, or set the base URL of your client, "
            "for example CLOUDFLARE_BASE_URL"
        )
    if not command and not print_env:
        raise TyperException("name a command to run, or give --print-env")
    if account is not None and not is_account_id(account):
        raise TyperException(f"--{ACCOUNT_MISTAKE.format(account)}")
    # The imports in this function are slow, and `--help` does not need them.
    from workers_ai_emulator.interception.companion import companion
    from workers_ai_emulator.interception.proxy import Address

    given = Address(reachable_host(host), port)
    # A running emulator need not be strict: `exec` finds the unmatched calls in the journal.
    wanted = settings_in_environment("host", "port", "log-level", "strict")
    own = os.environ | {env_var("strict"): "true" if strict else "false"}
    with companion(given, own, print_to_stderr, wanted) as emulator:
        if strict and emulator == given:
            # Other programs may call the running emulator, too. Their calls have other accounts.
            account = account or secrets.token_hex(16)
        calls = _Calls(emulator, account, strict)
        status = _run_and_check(command or [], calls, is_shown=print_env)
    raise SystemExit(status)


@dataclass(frozen=True, slots=True)
class _Calls:
    """Where the redirected calls are sent, and how they are checked.

    `emulator`: the address of the emulator that gets the calls. `account`: the account of all
    calls; None: the account id in the path of each call. `is_strict`: whether unmatched calls make
    `exec` fail.
    """

    emulator: Address
    account: str | None
    is_strict: bool


def _run_and_check(command: Sequence[str], calls: _Calls, *, is_shown: bool) -> int:
    """Runs the command, and returns the exit code of `exec`.

    Raises CommandError if the calls cannot be redirected, or if `--strict` has no effect.
    """
    import asyncio  # this import is slow, and `--help` does not need it

    from workers_ai_emulator.interception.unmatched import UnmatchedCalls

    token = os.environ.get("CLOUDFLARE_API_TOKEN") or "local"
    unmatched = UnmatchedCalls(calls.emulator, calls.account, token) if calls.is_strict else None
    try:
        status = asyncio.run(_run(command, calls, is_shown=is_shown))
    except OSError as error:
        raise CommandError(f"cannot intercept requests to Cloudflare: {error}") from error
    return status if unmatched is None else _checked(status, unmatched)


def _checked(status: int, unmatched: UnmatchedCalls) -> int:
    """Prints the unmatched calls of the command, and returns the exit code of `exec`.

    `status`: the command's exit code. If it is 0 and there are unmatched calls, the result is 99.
    """
    from workers_ai_emulator.launcher.calls import list_of

    number, calls = unmatched.find()
    if number == 0:
        return status
    print_to_stderr(
        "workers-ai-emulator: no rule of the script and no recording answered "
        f"{number} call{'s' * (number != 1)}:"
    )
    print_to_stderr(list_of(calls, number))
    return status or _UNMATCHED


async def _run(command: Sequence[str], calls: _Calls, *, is_shown: bool) -> int:
    # The imports in this function are slow, and `--help` does not need them.
    from urllib.request import getproxies_environment

    from workers_ai_emulator.interception.certificates import authority, server_context
    from workers_ai_emulator.interception.foreground import Foreground
    from workers_ai_emulator.interception.proxy import Proxy

    foreground = Foreground()
    ca = authority(_certificates_folder())
    users = getproxies_environment()
    async with Proxy(calls.emulator, server_context(ca), users, calls.account) as proxy:
        with TemporaryDirectory(prefix="workers-ai-emulator-") as folder:
            variables = _variables(ca, Path(folder), calls, proxy)
            if is_shown:
                _print(variables)
            return await _run_command(command, variables, foreground) if command else 0


def _print(variables: Mapping[str, str]) -> None:
    """Prints shell commands that set the variables. Raises CommandError if this is impossible."""
    try:
        for name, value in variables.items():
            print_line(f"export {name}={shlex.quote(value)}")
    except OSError as error:
        raise CommandError(f"cannot write to stdout: {error.strerror}") from error


def _variables(ca: CA, folder: Path, calls: _Calls, proxy: Proxy) -> dict[str, str]:
    """Returns the environment variables that `exec` adds to the command's environment.

    Some variables name files, for example a file of trusted certificates. This function writes
    these files into `folder`.
    """
    from workers_ai_emulator.interception.certificates import node_trust_bundle, trust_bundle
    from workers_ai_emulator.interception.environment import (
        Interception,
        curlrc,
        environment,
        wgetrc,
    )

    bundle, node_bundle = folder / "trusted.pem", folder / "trusted-by-node.pem"
    authority, of_wget = folder / "authority.pem", folder / "wgetrc"
    bundle.write_bytes(trust_bundle(ca, os.environ))
    node_bundle.write_bytes(node_trust_bundle(ca, os.environ))
    authority.write_bytes(ca.cert_pem.bytes())
    addresses = calls.emulator, proxy.address, proxy.tls_address
    files = bundle, node_bundle
    interception = Interception(
        *addresses,
        *files,
        proxy.credentials,
        authority,
        of_wget,
        account=calls.account,
        is_strict=calls.is_strict,
    )
    home = Path(os.path.expanduser("~"))
    of_wget.write_bytes(wgetrc(interception, os.environ, home))
    if (content := curlrc(interception, os.environ, home)) is not None:
        (folder / ".curlrc").write_bytes(content)
        interception = replace(interception, curl_home=folder)
    return environment(interception, os.environ)


async def _run_command(
    command: Sequence[str], variables: dict[str, str], foreground: Foreground
) -> int:
    from workers_ai_emulator.interception.warnings import warning_for

    if warning := warning_for(command):
        print_to_stderr(f"workers-ai-emulator: warning: {warning}")
    try:
        return await foreground.run(command, os.environ | variables)
    except OSError as error:
        print_to_stderr(f"workers-ai-emulator: cannot run {command[0]}: {error.strerror}")
        return _NOT_FOUND if isinstance(error, FileNotFoundError) else _NOT_EXECUTABLE


def _certificates_folder() -> Path:
    """Returns the folder in which `exec` keeps its certificates.

    Raises CommandError if the user has no home folder.
    """
    try:
        return platformdirs.user_cache_path("workers-ai-emulator") / "certificates"
    except RuntimeError as error:  # the user has no home folder, for example in a container
        raise CommandError("no home folder for the certificates: set HOME") from error
