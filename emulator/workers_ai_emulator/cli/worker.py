"""The command `worker`: connects the AI binding of a Cloudflare Worker to the emulator."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Literal

import typer

from workers_ai_emulator.cli.help import Command, Group
from workers_ai_emulator.cli.options import DEFAULTS
from workers_ai_emulator.cli.output import print_line, print_to_stderr
from workers_ai_emulator.errors import CommandError
from workers_ai_emulator.files import TextUnreadable, read_small_text, write_text_atomically
from workers_ai_emulator.settings.declaration import env_var

_ADDRESS = f"{DEFAULTS.host}:{DEFAULTS.port}"

Address = Annotated[
    str,
    typer.Option("--address", envvar=env_var("address"), help="Address of the server, host:port."),
]

app = typer.Typer(
    cls=Group,
    help="Connect the AI binding of a Cloudflare Worker to the emulator.",
    rich_markup_mode=None,
)


@app.callback(invoke_without_command=True)
def worker(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        print_line(context.get_help())


@app.command(cls=Command)
def config(
    tool: Annotated[
        Literal["wrangler", "miniflare", "vitest"] | None,
        typer.Argument(help="Tool to configure; all of them by default."),
    ] = None,
    binding: Annotated[str, typer.Option(help="The binding's name in the Worker's env.")] = "AI",
    address: Address = _ADDRESS,
) -> None:
    """Print lines to paste into the configuration of wrangler, Miniflare or vitest."""
    # This import is slow, and `worker --help` does not need it.
    from workers_ai_emulator.interception.worker_config import blocks

    chosen = [block for block in blocks(binding, address) if tool in (None, block.tool)]
    print_line("\n\n".join(f"// {block.heading}\n{block.text}" for block in chosen))


@app.command(cls=Command)
def init(
    where: Annotated[
        Path, typer.Argument(metavar="FILE|FOLDER", help="Wrangler's file, or its folder.")
    ] = Path(),
    address: Address = _ADDRESS,
) -> None:
    """Write wrangler.local.jsonc: a copy of wrangler's file whose AI binding calls the emulator.

    Writes the copy into the folder of wrangler's file, and changes no other file. Fails if the
    wrangler that is installed in this folder, or in a parent folder, is older than 4.36.
    """
    from workers_ai_emulator.interception.installed_wrangler import check_plugins, find_wrangler
    from workers_ai_emulator.interception.worker_config import (
        LOCAL_FILE_NAME,
        is_ours,
        local_config,
    )

    source = _wrangler_file(where)
    target = source.with_name(LOCAL_FILE_NAME)
    text = local_config(source, _read(source), address)
    hint = check_plugins(find_wrangler(source.parent))
    if target.exists() and not is_ours(_read(target)):
        raise CommandError(f"{target} was not written by this command: move it away first")
    _write(target, text)
    print_line(str(target))
    print_to_stderr(
        f"Run `npx wrangler dev -c {shlex.quote(str(target))}`, with -e NAME for an environment."
    )
    if hint:
        print_to_stderr(hint)
    print_to_stderr(f"{LOCAL_FILE_NAME} contains a path of this machine: add it to .gitignore.")


def _wrangler_file(where: Path) -> Path:
    """Returns the path of wrangler's configuration file.

    `where` is the path of this file or of the folder that contains the file. Raises CommandError if
    the file does not exist.
    """
    from workers_ai_emulator.interception.worker_config import FILE_NAMES

    candidates = [where / name for name in FILE_NAMES] if where.is_dir() else [where]
    for path in candidates:
        if path.exists():
            return path
    names = " or ".join(path.name for path in candidates)
    raise CommandError(f"no {names} in {candidates[0].parent.absolute()}: name the file or folder")


def _read(path: Path) -> str:
    try:
        return read_small_text(path)
    except TextUnreadable as error:
        raise CommandError(f"cannot read {error}") from error


def _write(path: Path, text: str) -> None:
    try:
        write_text_atomically(path, text)
    except OSError as error:
        raise CommandError(
            f"cannot write {path}: {error.strerror}; check whose folder that is and how much "
            "space it has"
        ) from error
