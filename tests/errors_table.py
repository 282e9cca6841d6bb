"""Generates the table of the service's errors in docs/parity.md: `python -m tests.errors_table`."""

from __future__ import annotations

import re
from pathlib import Path

from workers_ai_emulator.wire.errors import FOREIGN_PAGE, ErrorType, Sender, error_types

from tests.models_table import with_rows

PAGE = Path(__file__).parents[1] / "docs" / "parity.md"
_HEADING = "| code | status | cause of the error |\n|--:|--:|---|\n"
_SOURCE = re.compile(r" *\[[^]]*\]")  # such as `[recorded]`


def page() -> str:
    """Returns the text of docs/parity.md, with a table made from the error table."""
    types = [row for row in error_types(*Sender) if "[ours]" not in row.summary]
    types.remove(FOREIGN_PAGE)
    rows = [_row(row) for row in sorted(types, key=lambda row: row.code)]
    return with_rows(PAGE.read_text("utf-8"), _HEADING, rows)


def _row(row: ErrorType) -> str:
    return f"| {row.code} | {row.status} | {_SOURCE.sub('', row.summary).removesuffix('.')} |\n"


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
