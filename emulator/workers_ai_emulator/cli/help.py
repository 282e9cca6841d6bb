"""Commands and groups of commands that print their help with `print_line`."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand, TyperGroup

from workers_ai_emulator.cli.output import print_line


class _PrintsHelp:
    """A mixin for a command: prints the help of `--help` with `print_line`.

    Typer's own function raises OSError if the help cannot be written.
    """

    def get_help_option(self, ctx: Any) -> Any:
        option = super().get_help_option(ctx)  # type: ignore[misc] # the other base class has it
        if option is not None:
            option.callback = _print_help
        return option


class Command(_PrintsHelp, TyperCommand):
    """A command of the emulator's command line."""


class Group(_PrintsHelp, TyperGroup):
    """A group of commands, such as `models`."""


def _print_help(context: Any, option: Any, is_given: bool) -> None:
    """Prints the help, and ends the command. Raises CommandError if stdout cannot be written."""
    if is_given and not context.resilient_parsing:
        print_line(context.get_help())
        context.exit()
