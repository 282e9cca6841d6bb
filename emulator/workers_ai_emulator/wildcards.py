"""Compares texts with patterns in which `*` matches any text."""

from __future__ import annotations


def is_like(text: str, pattern: str) -> bool:
    """Returns whether the pattern, in which `*` matches any text, matches the whole text.

    Takes linear time. `fnmatch` would first compile each pattern to a regular expression.
    """
    first, *others = pattern.split("*")
    if not others:
        return text == first
    last = others.pop()
    start, end = len(first), len(text) - len(last)
    if start > end or not (text.startswith(first) and text.endswith(last)):
        return False
    for part in others:
        if (start := text.find(part, start, end)) < 0:
            return False
        start += len(part)
    return True
