"""Generates the tables of the built-in models in docs/models.md: `python -m tests.models_table`."""

from __future__ import annotations

from pathlib import Path

from workers_ai_emulator.machine import in_units
from workers_ai_emulator.models.catalog import CATALOG, ModelSpec
from workers_ai_emulator.models.embedding_traits import EmbeddingTraits

PAGE = Path(__file__).parents[1] / "docs" / "models.md"
_HEADING = (
    "| name | form | tools | JSON mode | reasoning | file that `pull` downloads | size |\n"
    "|---|---|---|---|---|---|--:|\n"
)
_EMBEDDING_HEADING = (
    "| name | input | dimensions | pooling | tokens per text "
    "| file that `pull` downloads | size |\n"
    "|---|---|--:|---|--:|---|--:|\n"
)
_INPUTS = {
    "bge-en": "`text`",
    "bge-m3": "`text`, or `query` and `contexts`",
    "gemma": "`text`",
    "qwen3": "`text`, or `queries` and `documents`",
    "reranker": "`query` and `contexts`",
}
_THINKING = {"none": "", "in_text": "in the text", "on": "default on", "always": "always"}


def page() -> str:
    """Returns the text of docs/models.md, with tables made from the catalogue."""
    specs = CATALOG.values()
    text_rows = [_text_row(spec) for spec in specs if spec.embedding is None]
    embedding_rows = [
        _embedding_row(spec, spec.embedding)
        for spec in specs
        if spec.embedding and not spec.decides
    ]
    page = with_rows(PAGE.read_text("utf-8"), _HEADING, text_rows)
    return with_rows(page, _EMBEDDING_HEADING, embedding_rows)


def with_rows(page: str, heading: str, rows: list[str]) -> str:
    """Replaces the rows of the table that has this heading."""
    before, _, after = page.partition(heading)
    _, _, after = after.partition("\n\n")
    return before + heading + "".join(rows) + "\n" + after


def _embedding_row(spec: ModelSpec, traits: EmbeddingTraits) -> str:
    cells = [
        f"`{spec.name}`",
        _INPUTS[traits.form],
        str(traits.dimensions or ""),
        traits.pooling.value if traits.dimensions else "",
        f"{traits.max_tokens:,}",
        *_file(spec),
    ]
    return "| " + " | ".join(cells) + " |\n"


def _text_row(spec: ModelSpec) -> str:
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
