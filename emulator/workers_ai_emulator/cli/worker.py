"""`worker`: put the emulator behind the AI binding of a Cloudflare Worker."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Literal

import typer

from workers_ai_emulator.cli.options import flag
from workers_ai_emulator.cli.output import print_line, tell
from workers_ai_emulator.errors import CommandError
from workers_ai_emulator.models.store import replace_text
from workers_ai_emulator.settings import Settings

_DEFAULTS = Settings()
_ADDRESS = f"{_DEFAULTS.host}:{_DEFAULTS.port}"

Address = Annotated[str, flag("address", "Where the server listens, host:port.")]

app = typer.Typer(help="Answer the AI binding of a Cloudflare Worker.", rich_markup_mode=None)


@app.callback(invoke_without_command=True)
def worker(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        print_line(context.get_help())


@app.command()
def config(
    tool: Annotated[
        Literal["wrangler", "miniflare", "vitest"] | None,
        typer.Argument(help="Whose configuration; without it, all."),
    ] = None,
    binding: Annotated[str, typer.Option(help="The binding's name in the Worker's env.")] = "AI",
    address: Address = _ADDRESS,
) -> None:
    """Print what to paste into the configuration of a tool."""
    from workers_ai_emulator.interception.worker_config import blocks  # slow to import

    chosen = [block for block in blocks(binding, address) if tool in (None, block.tool)]
    print_line("\n\n".join(f"// {block.heading}\n{block.text}" for block in chosen))


@app.command()
def init(
    where: Annotated[
        Path, typer.Argument(metavar="FILE|FOLDER", help="Wrangler's file, or where it is.")
    ] = Path(),
    address: Address = _ADDRESS,
) -> None:
    """Write wrangler.local.jsonc beside wrangler's own file: the same, but with the emulator.

    The Worker and its configuration stay as they are.
    """
    from workers_ai_emulator.interception.worker_config import (
        LOCAL_FILE_NAME,
        is_ours,
        local_config,
    )

    source = _wrangler_file(where)
    target = source.with_name(LOCAL_FILE_NAME)
    text = local_config(source, _read(source), address)
    if target.exists() and not is_ours(_read(target)):
        raise CommandError(f"{target} was not written by this command: move it away first")
    _write(target, text)
    print_line(str(target))
    tell(f"Run `npx wrangler dev -c {shlex.quote(str(target))}`, for an environment with -e NAME.")
    tell(f"{LOCAL_FILE_NAME} has a path of this machine in it: put it into .gitignore.")


def _wrangler_file(where: Path) -> Path:
    """The file that was named, or the one in a folder. Raises CommandError."""
    from workers_ai_emulator.interception.worker_config import FILE_NAMES

    candidates = [where / name for name in FILE_NAMES] if where.is_dir() else [where]
    for path in candidates:
        if path.exists():
            return path
    names = " or ".join(path.name for path in candidates)
    raise CommandError(f"no {names} in {candidates[0].parent.absolute()}: name the file or folder")


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"cannot read {path}: {error}") from error


def _write(path: Path, text: str) -> None:
    try:
        replace_text(path, text)
    except OSError as error:
        raise CommandError(
            f"cannot write {path}: {error.strerror}; check whose folder that is and how much "
            "space it has"
        ) from error
