"""Compares a request without a recording with the most similar request that has a recording."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable
from difflib import SequenceMatcher
from typing import TypeVar

from workers_ai_emulator.middleware.recordings.request import RecordedRequest, printable

_MAX_COMPARED = 400  # lines per request; the comparison takes quadratic time
_MAX_SHOWN = 16  # lines in an error message
_MAX_WIDTH = 100  # shown characters of a line; its JSON key does not count
_CONTEXT = 30  # equal characters shown before the first difference in a line
_KEY = re.compile(r'"(?:[^"\\]|\\.){0,60}": ')

_T = TypeVar("_T")
_Sliceable = TypeVar("_Sliceable", str, list[str])


def nearest(
    request: RecordedRequest, others: Iterable[tuple[_T, RecordedRequest]]
) -> tuple[_T, RecordedRequest] | None:
    """Returns the pair in `others` with the request that is most similar to `request`.

    Three criteria decide, in this order: the same path, fewer different lines, and a longer common
    beginning and end. Returns None if `others` is empty.
    """
    lines, canonical = Counter(_lines(request)), request.canonical

    def similarity(other: RecordedRequest) -> tuple[bool, int, int]:
        other_lines = Counter(_lines(other))
        num_common = sum(min(count, lines[line]) for line, count in other_lines.items())
        num_different = lines.total() + other_lines.total() - 2 * num_common
        is_same_path = other.content["path"] == request.content["path"]
        return is_same_path, -num_different, sum(_ends(canonical, other.canonical))

    return max(others, key=lambda item: similarity(item[1]), default=None)


def difference(recorded: RecordedRequest, request: RecordedRequest) -> list[str]:
    """Returns the lines that differ: `- …` are lines of `recorded`, `+ …` of `request`."""
    old, new = _lines(recorded), _lines(request)
    start, end = _ends(old, new)
    old = old[start : len(old) - end][:_MAX_COMPARED]
    new = new[start : len(new) - end][:_MAX_COMPARED]
    shown: list[str] = []
    for tag, i, i_end, j, j_end in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if tag != "equal":
            shown += _changed(old[i:i_end], new[j:j_end])
    num_more = len(shown) - _MAX_SHOWN
    return shown if num_more <= 0 else [*shown[:_MAX_SHOWN], f"… and {num_more} more lines"]


def _lines(request: RecordedRequest) -> list[str]:
    """Returns the request as sorted JSON, with one line for each value.

    Removes the comma at the end of each line. With commas, the lines of two equal values would
    differ if only one of the values is the last one in its object.
    """
    text = json.dumps(request.content, ensure_ascii=False, indent=1, sort_keys=True)
    return [line.strip().removesuffix(",") for line in text.split("\n")]


def _changed(old: list[str], new: list[str]) -> list[str]:
    """Returns changed lines for an error message: old lines with `-`, new lines with `+`.

    If a new line replaces an old line, both are shown from shortly before their first difference.
    """
    shown = []
    for index in range(max(len(old), len(new))):
        pair = old[index : index + 1] + new[index : index + 1]
        start = _ends(*pair)[0] if len(pair) == 2 else 0
        signs = (["-"] if index < len(old) else []) + (["+"] if index < len(new) else [])
        shown += [f"{sign} {_cut(line, start)}" for sign, line in zip(signs, pair, strict=True)]
    return shown


def _cut(line: str, start: int) -> str:
    key = match[0] if (match := _KEY.match(line)) else ""
    begin = max(len(key), start - _CONTEXT)
    part = line[begin : begin + _MAX_WIDTH]
    text = f"{key}{'…' if begin > len(key) else ''}{part}"
    text += "…" if begin + _MAX_WIDTH < len(line) else ""
    return printable(text)


def _ends(one: _Sliceable, other: _Sliceable) -> tuple[int, int]:
    """Returns the lengths of the common beginning and the common end of two texts.

    The common end does not overlap the common beginning.
    """
    limit = min(len(one), len(other))
    start = _longest(limit, lambda low, high: one[low:high] == other[low:high])
    return start, _longest(
        limit - start,
        lambda low, high: (
            one[len(one) - high : len(one) - low] == other[len(other) - high : len(other) - low]
        ),
    )


def _longest(limit: int, is_equal: Callable[[int, int], bool]) -> int:
    """Returns the length of the common beginning or end of two texts, at most `limit`.

    `is_equal(low, high)` returns whether the texts are equal from index `low` to index `high`. For
    the common end, these indices count from the ends of the texts. Uses a binary search, because a
    text may be several megabytes long.
    """
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        if is_equal(low, middle):
            low = middle
        else:
            high = middle - 1
    return low
