"""Formats Markdown tables, and the numbers in them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence


def markdown(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a Markdown table. All columns but the first are aligned right, for numbers."""
    rule = ["---"] + ["--:"] * (len(headings) - 1)
    return "\n".join(f"| {' | '.join(row)} |" for row in (headings, rule, *rows))


def percentile(values: Iterable[float], percent: float) -> float:
    """Returns the percentile of the values, by the nearest-rank method; NaN without values."""
    ranked = sorted(values)
    return ranked[max(math.ceil(len(ranked) * percent / 100) - 1, 0)] if ranked else math.nan


def ratio(value: float, base: float) -> str:
    return f"{value / base:.2f}" if base else "-"
