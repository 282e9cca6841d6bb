"""Writes grammars in llguidance's dialect of Lark.

A rule is a line `name: body`. Names of terminals, which are regular expressions, are in capitals.
`<[7]>` is the special token with the id 7; a regular expression never matches a special token.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

# Objects are written as Python's json.dumps writes them, the form in which models learn tool calls.
# Without fixed spaces, a small model may write spaces until its tokens are used up.
_STYLE = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
    "coerce_one_of": True,
}
_MAX_DEPTH = 64  # of the schemas in which `closed` looks for objects
# If a schema has one of these keywords, an object may have keys that are not in `properties`.
_OTHER_KEYS = (
    *("additionalProperties", "patternProperties", "unevaluatedProperties"),
    *("allOf", "anyOf", "oneOf", "$ref", "if", "not"),
)


class Rules:
    """The rules of one grammar. `special_tokens`: the ids of markers that are special tokens."""

    def __init__(self, special_tokens: Mapping[str, int]) -> None:
        self._ids = special_tokens
        names = sorted(filter(None, special_tokens), key=len, reverse=True)
        self._special = re.compile("(" + "|".join(map(re.escape, names)) + ")" if names else "(?!)")
        self._bodies: dict[str, str] = {}

    def __str__(self) -> str:
        text = "\n".join(f"{name}: {body}" for name, body in self._bodies.items()) + "\n"
        return text.encode("utf-8", "replace").decode()  # without lone surrogates

    def add(self, name: str, body: str) -> str:
        """Adds a rule, and returns its name. Adds nothing if there is a rule of this name."""
        self._bodies.setdefault(name, body)
        return name.partition("[")[0]

    @property
    def break_(self) -> str:
        """A rule for up to two line breaks, which models write before and between tool calls."""
        return self.add("BREAK", r"/\n{1,2}/") + "?"

    def text(self, excluded: str | None = None) -> str:
        """Returns a rule for any text that does not begin with `excluded`."""
        self.add("ANY", r"/(.|\n)*/")
        if excluded is None:
            return "ANY"
        return self.add("OTHER", f"ANY & ~({self._begins_with(excluded)})")

    def excluded(self, text: str) -> str | None:
        """Returns `text`; None if it begins with a special token, which no text can contain."""
        return None if self._special.match(text) else text

    def _begins_with(self, text: str) -> str:
        self.add("ANY", r"/(.|\n)*/")
        return self.add("EXCLUDED", rf"/\s*/ {literal(text)} ANY")

    def until(self, marker: str, excluded: str | None = None) -> str:
        """Returns a rule for a text that ends with the first `marker`.

        `excluded`: a text with which it must not begin; None if it may begin with any text.
        """
        if self._special.match(marker):
            return f"{self.text(excluded)} {self.mark(marker)}"
        self.add("ANY", r"/(.|\n)*/")
        body = f"(ANY {literal(marker)})"
        if excluded is not None:
            body += f" & ~({self._begins_with(excluded)})"
        name = f"until_{len(self._bodies)}"
        return self.add(f"{name}[lazy]", self.add(name.upper(), body))

    def mark(self, text: str) -> str:
        """Returns a rule for exactly this text. Names of special tokens match these tokens."""
        parts = filter(None, self._special.split(text))
        return " ".join(
            f"<[{self._ids[part]}]>" if part in self._ids else literal(part) for part in parts
        )

    def between(self, before: str, pattern: str, after: str) -> str:
        """Returns a rule for a text that matches `pattern`, between two fixed texts.

        The pattern is the body of a terminal. The characters next to the text belong to the same
        terminal: otherwise the lexer could not choose between `before` alone and a longer fixed
        text that begins with it. Special tokens cannot be a part of a terminal.
        """
        *earlier, beginning = self._special.split(before)
        ending, *later = self._special.split(after)
        fixed = [literal(part) if part else "" for part in (beginning, ending)]
        body = " ".join(filter(None, [fixed[0], f"({pattern})", fixed[1]]))
        terminal = self.add(f"BETWEEN_{len(self._bodies)}", body)
        parts = (self.mark("".join(earlier)), terminal, self.mark("".join(later)))
        return " ".join(filter(None, parts))

    def json(self, schema: Mapping[str, Any]) -> str:
        """Returns a rule for a JSON text that conforms to this schema."""
        styled = {**closed(schema), "x-guidance": _STYLE}
        return f"%json {json.dumps(styled, ensure_ascii=False)}"


def literal(text: str) -> str:
    """Returns a text as a Lark string."""
    # llguidance accepts this character only if it is escaped; JSON does not require it.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def closed(schema: Any, depth: int = 0) -> Any:
    """Returns a schema whose objects accept no other keys than those in `properties`.

    Does not change schemas that mention other keys, or that are combined with other schemas: a
    value must then satisfy several schemas, which list different keys. Other servers treat the
    schemas of tools in the same way.
    """
    if not isinstance(schema, Mapping) or depth > _MAX_DEPTH or _is_combined(schema):
        return schema
    changed = dict(schema)
    for key in ("properties", "$defs", "definitions"):
        if isinstance(value := schema.get(key), Mapping):
            changed[key] = {name: closed(item, depth + 1) for name, item in value.items()}
    for key in ("anyOf", "oneOf", "prefixItems"):
        if isinstance(value := schema.get(key), list):
            changed[key] = [closed(item, depth + 1) for item in value]
    if "items" in schema:
        changed["items"] = closed(schema["items"], depth + 1)
    if lists_all_keys(schema):
        changed["additionalProperties"] = False
    return changed


def lists_all_keys(schema: Mapping[str, Any]) -> bool:
    """Returns whether the schema lists the keys of an object, and says nothing of other keys."""
    properties, required = schema.get("properties"), schema.get("required")
    if not isinstance(properties, Mapping) or any(key in schema for key in _OTHER_KEYS):
        return False
    return not isinstance(required, list) or all(name in properties for name in required)


def _is_combined(schema: Mapping[str, Any]) -> bool:
    """Returns whether a value must satisfy several of the schemas in `schema`."""
    is_union = any(key in schema for key in ("anyOf", "oneOf", "$ref"))
    return "allOf" in schema or (is_union and "properties" in schema)
