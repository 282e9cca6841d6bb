"""Defines the command line `workers-ai-emulator`. Only the modules in cli/ call `print`."""

from __future__ import annotations

from typing import Annotated

import typer
from typer.exceptions import TyperException

from workers_ai_emulator import __version__
from workers_ai_emulator.cli import models, worker
from workers_ai_emulator.cli.check import check
from workers_ai_emulator.cli.execute import execute
from workers_ai_emulator.cli.help import Command, Group
from workers_ai_emulator.cli.options import CommandWithPort, error_text
from workers_ai_emulator.cli.output import (
    accept_all_characters,
    fail,
    open_closed_streams,
    print_line,
)
from workers_ai_emulator.cli.serve import serve
from workers_ai_emulator.cli.wait import wait
from workers_ai_emulator.errors import CommandError, ModelPartMissing
from workers_ai_emulator.files import one_line

_INTERRUPTED = 130

app = typer.Typer(
    cls=Group,
    help="A local server that answers Cloudflare Workers AI's calls for text generation and "
    "embeddings.",
    rich_markup_mode=None,  # disables Rich, whose help tables cut off long variable names
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command(cls=CommandWithPort)(serve)
app.command("exec", cls=CommandWithPort, context_settings={"allow_interspersed_args": False})(
    execute
)
app.command(cls=CommandWithPort)(wait)
app.command(cls=Command)(models.pull)
app.command(cls=Command)(check)
app.add_typer(models.app, name="models")
app.add_typer(worker.app, name="worker")


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        print_line(__version__)
    elif context.invoked_subcommand is None:
        print_line(context.get_help())


def main() -> None:
    """Runs the command line. Prints errors to stderr without a traceback.

    An error of the operating system about a file, such as a folder without access, is one line.
    The exit code is 1 if a command fails, 2 if the command line is invalid, and 130 after Ctrl-C.
    """
    open_closed_streams()
    accept_all_characters()
    try:
        status = app(standalone_mode=False)
    except CommandError as error:
        fail(str(error), 1)
    except OSError as error:
        if error.filename is None:
            raise
        fail(f"{one_line(str(error.filename))}: {error.strerror}", 1)
    except ModuleNotFoundError as error:
        fail(str(ModelPartMissing.of(error)), 1)
    except TyperException as error:
        fail(error_text(error), 2)
    except (typer.Abort, KeyboardInterrupt):  # Typer converts only a part of the interrupts
        status = _INTERRUPTED
    if status == _INTERRUPTED:  # Typer returns 130 after Ctrl-C
        fail("interrupted", _INTERRUPTED)
