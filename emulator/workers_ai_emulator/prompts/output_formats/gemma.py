"""The output format of Gemma 4: `<|tool_call>call:NAME{KEY:VALUE,…}<tool_call|>`.

The arguments resemble JSON, but texts are between `<|"|>` marks. A key has no quotes; only a key
with special characters is between these marks, too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Literal

from workers_ai_emulator.engine.types import Chunk, ToolCallDelta
from workers_ai_emulator.json_values import parse_json
from workers_ai_emulator.prompts.output_formats.argument_schema import ArgumentSchema
from workers_ai_emulator.prompts.output_formats.grammar import Rules, literal
from workers_ai_emulator.prompts.output_formats.markers import split_at
from workers_ai_emulator.prompts.output_formats.output_format import Constraint
from workers_ai_emulator.prompts.output_formats.tagged_calls import TaggedCallParser
from workers_ai_emulator.prompts.output_formats.tagged_format import TaggedFormat
from workers_ai_emulator.prompts.tools import Tool

_START, _END, _QUOTE = "<|tool_call>", "<tool_call|>", '<|"|>'
_HEAD = re.compile(r"\s*call:([^{]*)(?=\{)")
_PLAIN_KEY = re.compile(r"[^\s:{}\[\],<]+")
_KEY = re.compile(rf'\s*(?:<\|"\|>(.*?)<\|"\|>|({_PLAIN_KEY.pattern}))\s*:', re.DOTALL)
_TEXT = re.compile(r'<\|"\|>(.*?)<\|"\|>', re.DOTALL)
_PLAIN = re.compile(r"[^,{}\[\]<]+")
_SPACE = re.compile(r"\s*")
_MAX_DEPTH = 64
_MAX_RULE_DEPTH = 8  # deeper schemas are not enforced


class GemmaFormat(TaggedFormat):
    quotes_names = False
    markers = (_START, _END, _QUOTE, "<|channel>", "<channel|>")

    def call_parser(self, tools: Sequence[Tool]) -> TaggedCallParser:
        names = {tool.name for tool in tools}
        return TaggedCallParser(_START, lambda index: GemmaCallReader(index, names))

    def call_rule(self, rules: Rules, constraint: Constraint) -> tuple[str, str]:
        values = _ValueRules(rules)
        bodies = [
            f"{literal(f'call:{tool.name}')} {values.object(tool.parameters, 0)}"
            for tool in constraint.tools
        ]
        return _START, f"{rules.add('call', ' | '.join(bodies))} {rules.mark(_END)}"


class GemmaCallReader:
    """Reads a tool call up to its end marker, and returns it as a whole.

    `index`: the number of the call. `names`: the tools that may be called.
    """

    def __init__(self, index: int, names: Collection[str]) -> None:
        self.state: Literal["open", "done", "failed"] = "open"
        self.rest = ""
        self.num_calls = 0
        self._index = index
        self._names = names

    def feed(self, text: str) -> list[Chunk]:
        self.rest += text
        call, marker, rest = split_at(self.rest, _END)
        return self._read(call, rest) if marker else []

    def flush(self) -> list[Chunk]:
        """Ends the call. Drops an argument that has not ended."""
        head = _HEAD.match(self.rest)
        if not head or not self._may_call(head):
            self.state = "failed"
            return []
        arguments, rest = parse_beginning(self.rest[head.end() :])
        return self._end(head, arguments, "" if _END.startswith(rest.strip()) else rest)

    def _read(self, call: str, rest: str) -> list[Chunk]:
        head = _HEAD.match(call)
        try:
            if not head or not self._may_call(head):
                raise ValueError
            arguments = parse_arguments(call[head.end() :])
        except ValueError:
            self.state = "failed"
            return []
        return self._end(head, arguments, rest)

    def _may_call(self, head: re.Match[str]) -> bool:
        return head[1].strip() in self._names

    def _end(self, head: re.Match[str], arguments: Any, rest: str) -> list[Chunk]:
        self.state, self.rest, self.num_calls = "done", rest, 1
        text = json.dumps(arguments, ensure_ascii=False)
        return [Chunk(tool_call=ToolCallDelta(self._index, text, head[1].strip()), num_tokens=0)]


def parse_arguments(text: str) -> Any:
    """Returns the value that a text in Gemma's format contains.

    Raises ValueError if the text is invalid.
    """
    value, end = _parse(text, 0, 0)
    if text[end:].strip():
        raise ValueError(f"there is text after the value: {text[end:][:20]!r}")
    return value


def parse_beginning(text: str) -> tuple[dict[str, Any], str]:
    """Returns the complete items of an object that may be cut, and the text after the object.

    `text`: begins with the opening brace of the object.
    """
    items: dict[str, Any] = {}
    start = _skip(text, 1)
    try:
        for key, value, after in _items(text, start, "}", 0):
            items[key] = value
            start = after
    except ValueError:  # the text ends within an item
        return items, ""
    return items, text[start + 1 :]


def _parse(text: str, start: int, depth: int) -> tuple[Any, int]:
    """Returns the value that begins at `start`, and the index after it."""
    start = _skip(text, start)
    if depth > _MAX_DEPTH:
        raise ValueError("the value is nested too deeply")
    if text.startswith("{", start):
        return _parse_items(text, start + 1, "}", depth)
    if text.startswith("[", start):
        return _parse_items(text, start + 1, "]", depth)
    if match := _TEXT.match(text, start):
        return match[1], match.end()
    if match := _PLAIN.match(text, start):
        return _plain(match[0].strip()), match.end()
    raise ValueError(f"there is no value at {text[start:][:20]!r}")


def _parse_items(text: str, start: int, end: str, depth: int) -> tuple[Any, int]:
    """Returns the object or array whose first item begins at `start`, and the index after it."""
    items: list[tuple[str, Any]] = []
    start = _skip(text, start)
    for key, value, after in _items(text, start, end, depth):
        items.append((key, value))
        start = after
    return (dict(items) if end == "}" else [value for _, value in items]), start + 1


def _items(text: str, start: int, end: str, depth: int) -> Iterator[tuple[str, Any, int]]:
    """Yields the key and value of each item, and the index of the next item or of the end.

    The first item begins at `start`. The items of an array have no key. Raises ValueError after the
    last complete item if the text is invalid.
    """
    while not text.startswith(end, start):
        key = ""
        if end == "}":
            if not (match := _KEY.match(text, start)):
                raise ValueError(f"there is no key at {text[start:][:20]!r}")
            key, start = match[1] or match[2] or "", match.end()
        value, start = _parse(text, start, depth + 1)
        start = _skip(text, start)
        if text.startswith(",", start):
            start = _skip(text, start + 1)
        elif not text.startswith(end, start):
            raise ValueError(f"the value is not closed at {text[start:][:20]!r}")
        yield key, value, start


def _skip(text: str, start: int) -> int:
    match = _SPACE.match(text, start)
    return match.end() if match else start


def _plain(text: str) -> Any:
    """Returns a number, true, false or null; any other text without quotes stays a text."""
    try:
        return parse_json(text)
    except ValueError:
        return text


class _ValueRules:
    """Adds rules for values in Gemma's format.

    Enforces the types, the keys and their order, `additionalProperties`, and the values of an
    `enum`. Other keywords of JSON schemas are not enforced.
    """

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        quote = rules.mark(_QUOTE)
        rules.add("text", f"{quote} {rules.until(_QUOTE)}")
        rules.add("NUMBER", r"/-?(0|[1-9][0-9]{0,15})(\.[0-9]{1,15})?/")
        rules.add("INTEGER", r"/-?(0|[1-9][0-9]{0,15})/")
        rules.add("KEY", r'/[^\s:{}\[\],<"]{1,64}/')
        rules.add("QUOTED_KEY", "/[^<]{1,64}/")
        rules.add("key", "KEY | text")
        rules.add("boolean", '"true" | "false"')
        rules.add("array", '"[" (value ("," value)*)? "]"')
        rules.add("object", '"{" (key ":" value ("," key ":" value)*)? "}"')
        rules.add("value", 'text | NUMBER | boolean | "null" | array | object')

    def value(self, schema: Any, depth: int) -> str:
        if not isinstance(schema, Mapping) or depth > _MAX_RULE_DEPTH:
            return "value"
        if isinstance(values := schema.get("enum"), list) and values:
            return "(" + " | ".join(map(self._constant, values)) + ")"
        match schema.get("type"):
            case "string":
                return "text"
            case "integer":
                return "INTEGER"
            case "number":
                return "NUMBER"
            case "boolean":
                return "boolean"
            case "array":
                item = self.value(schema.get("items"), depth + 1)
                return f'("[" ({item} ("," {item})*)? "]")'
            case "object":
                return self.object(schema, depth)
        return "value"

    def object(self, schema: Mapping[str, Any], depth: int) -> str:
        """Returns the rule for an object.

        Required keys come first, so that each optional key can be omitted together with its comma.
        Keys that the schema does not list come last.
        """
        arguments = ArgumentSchema.of(schema)
        properties, others = arguments.properties, arguments.others
        if not properties and others is True:
            return "object"
        keys = sorted(properties, key=lambda key: key not in arguments.required)  # keeps the order
        num_required = sum(key in arguments.required for key in keys)
        items = [f"{self._key(key)} {self.value(properties[key], depth + 1)}" for key in keys]
        other = "" if others is False else self._other_item(keys, others, depth)
        return f'("{{" {_sequence(items[:num_required], items[num_required:], other)} "}}")'

    def _other_item(self, listed: Sequence[str], schema: Any, depth: int) -> str:
        """Returns the rule for a key that is not in `listed`, and its value."""
        unlisted = f" & ~({' | '.join(map(literal, listed))})" if listed else ""
        plain = self._rules.between("", f"KEY{unlisted}", ":")
        quoted = self._rules.between(_QUOTE, f"QUOTED_KEY{unlisted}", f"{_QUOTE}:")
        return f"({plain} | {quoted}) {self.value(schema, depth + 1)}"

    def _key(self, key: str) -> str:
        """Returns the rule for a key and the colon after it."""
        if _PLAIN_KEY.fullmatch(key):
            return literal(f"{key}:")
        if not key:
            return self._rules.mark(f"{_QUOTE}{_QUOTE}:")
        return self._rules.between(_QUOTE, literal(key), f"{_QUOTE}:")

    def _constant(self, value: Any) -> str:
        if isinstance(value, str):
            return self._quoted(value)
        if isinstance(value, Mapping):
            items = [f"{self._key(key)} {self._constant(item)}" for key, item in value.items()]
            return f'("{{" {_sequence(items, [])} "}}")' if items else '"{}"'
        if isinstance(value, list):
            items = [self._constant(item) for item in value]
            return f'("[" {_sequence(items, [])} "]")' if items else '"[]"'
        return literal(json.dumps(value, ensure_ascii=False))

    def _quoted(self, text: str) -> str:
        quote = self._rules.mark(_QUOTE)
        return f"({quote} {literal(text)} {quote})" if text else f"({quote} {quote})"


def _sequence(first: Sequence[str], others: Sequence[str], last: str = "") -> str:
    """Returns a rule for items with commas between them.

    The items are all of `first`, then any of `others`, then any number of items `last`.
    """
    optional = [f' ("," {item})?' for item in others] + ([f' ("," {last})*'] if last else [])
    if first:
        return ' "," '.join(first) + "".join(optional)
    choices = [item + "".join(optional[i + 1 :]) for i, item in enumerate(others)]
    if last:
        choices.append(last + optional[-1])
    return f"({' | '.join(choices)})?" if choices else ""
