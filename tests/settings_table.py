"""Generates the table in docs/settings.md: `python -m tests.settings_table`."""

from __future__ import annotations

from pathlib import Path

from workers_ai_emulator.settings import Settings
from workers_ai_emulator.settings.declaration import Declaration, declarations

PAGE = Path(__file__).parents[1] / "docs" / "settings.md"
_HEADING = "| flag | default | |\n|---|---|---|\n"


def page() -> str:
    """Returns the text of docs/settings.md, with a table made from the settings' declarations."""
    introduction, _, _ = PAGE.read_text("utf-8").partition(_HEADING)
    return introduction + _HEADING + "".join(map(_row, declarations(Settings()).values()))


def _row(declaration: Declaration) -> str:
    text = declaration.description
    if declaration.choices:
        text += " One of " + ", ".join(f"`{choice}`" for choice in declaration.choices) + "."
    if page := declaration.setting.page:
        text += f" See [{page}]({page})."
    return f"| `--{declaration.flag}` | {_default(declaration)} | {text} |\n"


def _default(declaration: Declaration) -> str:
    if declaration.setting.default_text:
        return declaration.setting.default_text
    match declaration.flag_default:
        case None:
            return "none"
        case bool(is_on):
            return "on" if is_on else "off"
        case float(number):
            return f"`{number:g}`"
        case value:
            return f"`{value}`"


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
