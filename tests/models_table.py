"""Generates the table of the built-in models in docs/models.md: `python -m tests.models_table`."""

from __future__ import annotations

from pathlib import Path

from workers_ai_emulator.machine import in_units
from workers_ai_emulator.models.catalog import CATALOG, ModelSpec

PAGE = Path(__file__).parents[1] / "docs" / "models.md"
_HEADING = (
    "| name | form | tools | JSON mode | reasoning | file that `pull` downloads | size |\n"
    "|---|---|---|---|---|---|--:|\n"
)
_THINKING = {"none": "", "in_text": "in the text", "on": "default on", "always": "always"}


def page() -> str:
    """Returns the text of docs/models.md, with a table made from the catalogue."""
    before, _, after = PAGE.read_text("utf-8").partition(_HEADING)
    _, _, after = after.partition("\n\n")
    return before + _HEADING + "".join(map(_row, CATALOG.values())) + "\n" + after


def _row(spec: ModelSpec) -> str:
    traits = spec.traits
    json_mode = "" if traits.json_mode == "none" else traits.json_mode
    cells = [
        f"`{spec.name}`" + (" (retired)" if spec.retired_on else ""),
        f"`{traits.form}`",
        "yes" if traits.has_tools else "",
        json_mode + (", `guided_json`" if traits.guided_json else ""),
        _THINKING[traits.thinking],
        *_file(spec),
    ]
    return "| " + " | ".join(cells) + " |\n"


def _file(spec: ModelSpec) -> tuple[str, str]:
    file = spec.hub_file
    if file is None or file.is_split:
        return "", ""
    repo = f"`{file.repo}` at `{file.revision[:12]}`"
    return f"{repo}, `{file.path}`", in_units(file.size) if file.size else ""


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
