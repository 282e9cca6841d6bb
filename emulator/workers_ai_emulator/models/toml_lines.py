"""Finds the line number of each key in a TOML document. `tomllib` reports no line numbers."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

_Keys = tuple[str, ...]
# Matches each string and each comment as one token, because brackets and newlines inside strings
# and comments have no meaning.
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
    """Returns the number of the line on which each key of a valid TOML document first occurs.

    In the result, a key is a tuple: the names of the tables around the key, from the outermost to
    the innermost, and the key's own name. The first line has the number 1. If a value spans several
    lines, the keys inside it have the number of its first line. The running time is linear in the
    length of `text`.
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
    """Yields each statement of a TOML document with the number of its first line.

    A statement is a table header, a key with its value, a comment line or an empty line.
    """
    number, start, depth = 1, 0, 0
    for token in _TOKEN.finditer(text + "\n"):
        depth += (token.lastgroup == "open") - (token.lastgroup == "close")
        if token.lastgroup == "end" and depth == 0:
            statement = text[start : token.end()]
            yield number, statement
            number += statement.count("\n")
            start = token.end()


def _paths(value: Mapping[str, Any], parents: _Keys = ()) -> Iterator[_Keys]:
    """Yields the path of each key in a parsed TOML document, including keys of nested tables.

    Each path begins with `parents`. Searches only the first table of a list of tables.
    """
    for key, content in value.items():
        yield (*parents, key)
        if isinstance(content, Mapping):
            yield from _paths(content, (*parents, key))
        elif isinstance(content, list) and content and isinstance(content[0], Mapping):
            # The TOML header [[key]] creates a list of tables.
            yield from _paths(content[0], (*parents, key))
