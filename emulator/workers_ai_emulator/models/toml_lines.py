"""Finds the line of each key in a TOML document. `tomllib` does not report lines."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

_Keys = tuple[str, ...]
# Strings and comments may contain brackets and newlines that do not end a statement.
_TOKEN = re.compile(
    r'''
    """ (?: [^"\\]++ | \\. | "(?!"") )*+ "{3,5}
    | \'\'\' (?: [^']++ | '(?!\'\') )*+ '{3,5}
    | " (?: [^"\\\n]++ | \\. )*+ "
    | ' [^'\n]* '
    | \# [^\n]*
    | (?P<open> [\[{] )
    | (?P<close> [\]}] )
    | (?P<end> \n )
    ''',
    re.VERBOSE | re.DOTALL,
)


def key_lines(text: str) -> dict[_Keys, int]:
    """Returns the line of the statement that first contains each key of a valid document.

    The keys are given from the outermost table inwards. Takes time in proportion to the text.
    """
    lines: dict[_Keys, int] = {}
    table: _Keys = ()
    for number, statement in _statements(text):
        found = list(_paths(tomllib.loads(statement)))
        if statement.lstrip().startswith("["):
            table = max(found, key=len)
            parents: _Keys = ()
        else:
            parents = table
        for keys in found:
            lines.setdefault(parents + keys, number)
    return lines


def _statements(text: str) -> Iterator[tuple[int, str]]:
    """Yields each table header and each key with its value, with the line of its beginning."""
    number, start, depth = 1, 0, 0
    for token in _TOKEN.finditer(text + "\n"):
        depth += (token.lastgroup == "open") - (token.lastgroup == "close")
        if token.lastgroup == "end" and depth == 0:
            statement = text[start : token.end()]
            yield number, statement
            number += statement.count("\n")
            start = token.end()


def _paths(value: Mapping[str, Any], parents: _Keys = ()) -> Iterator[_Keys]:
    """Yields the keys of a document and of the tables in it, each with its parents."""
    for key, content in value.items():
        yield (*parents, key)
        if isinstance(content, Mapping):
            yield from _paths(content, (*parents, key))
        elif isinstance(content, list) and content and isinstance(content[0], Mapping):
            yield from _paths(content[0], (*parents, key))  # of [[key]]
