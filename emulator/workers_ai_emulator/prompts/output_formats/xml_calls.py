"""The output formats that write each argument of a tool call between tags of its own."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from workers_ai_emulator.engine.types import Chunk, ToolCallDelta
from workers_ai_emulator.json_values import parse_json
from workers_ai_emulator.prompts.output_formats.argument_schema import ArgumentSchema
from workers_ai_emulator.prompts.output_formats.grammar import Rules, literal
from workers_ai_emulator.prompts.output_formats.json_calls import MAX_HEAD
from workers_ai_emulator.prompts.output_formats.output_format import Constraint, ThinkingTags
from workers_ai_emulator.prompts.output_formats.tagged_calls import TaggedCallParser
from workers_ai_emulator.prompts.output_formats.tagged_format import TaggedFormat
from workers_ai_emulator.prompts.tools import Tool

_START, _END = "<tool_call>", "</tool_call>"
# The name of an argument that the tool's schema does not list. The parser drops outer white space.
_OTHER_KEY = r"/[^<>\s]([^<>\n]*[^<>\s])?/"


@dataclass(frozen=True, slots=True)
class Tags:
    """The texts around the parts of a call. `key` and `value` are before a key and a value.

    `line`: the white space between the tags, as the models write it. `value_line`: the white space
    around a value, which is not a part of the value.
    """

    before_name: str
    after_name: str
    key: str
    value: str
    after_value: str
    end: str
    line: str = ""
    value_line: str = ""


# GLM: `<tool_call>NAME<arg_key>KEY</arg_key><arg_value>VALUE</arg_value></tool_call>`, in some
# versions with line breaks between the tags.
ARGUMENT_KEYS = Tags("", "", "<arg_key>", "</arg_key><arg_value>", "</arg_value>", _END)
# Qwen 3 Coder, Qwen 3.5 and Nemotron 3: `<tool_call><function=NAME><parameter=KEY>VALUE</parameter>
# </function></tool_call>` with line breaks between the tags.
PARAMETERS = Tags(
    "<function=", ">", "<parameter=", ">", "</parameter>", f"</function>\n{_END}", "\n", "\n"
)


class XmlFormat(TaggedFormat):
    """A format with a tag for each argument. `tags`: the texts around the parts of a call."""

    quotes_names = False

    def __init__(self, tags: Tags, thinking: ThinkingTags | None = None) -> None:
        super().__init__(thinking)
        self._tags = tags

    @property
    def markers(self) -> Sequence[str]:
        tags = self._tags
        return (_START, _END, tags.key, "</arg_key>", "<arg_value>", tags.after_value)

    def call_parser(self, tools: Sequence[Tool]) -> TaggedCallParser:
        schemas = {tool.name: ArgumentSchema.of(tool.parameters) for tool in tools}
        return TaggedCallParser(_START, lambda index: XmlCallReader(index, schemas, self._tags))

    def call_rule(self, rules: Rules, constraint: Constraint) -> tuple[str, str]:
        bodies = [self._one_tool(rules, tool, f"{i}") for i, tool in enumerate(constraint.tools)]
        return _START, rules.add("call", " | ".join(bodies))

    def _one_tool(self, rules: Rules, tool: Tool, number: str) -> str:
        """Returns the rule for a call of one tool.

        The arguments that the schema lists must have its order. Others are allowed after them if
        the schema allows them.
        """
        tags, schema = self._tags, ArgumentSchema.of(tool.parameters)
        parts = [rules.mark(f"{tags.line}{tags.before_name}{tool.name}{tags.after_name}")]
        for i, (key, value_schema) in enumerate(schema.properties.items()):
            before = rules.mark(f"{tags.line}{tags.key}{key}{tags.value}{tags.value_line}")
            value = self._value(rules, value_schema, tool.parameters, f"value_{number}_{i}")
            parts.append(f"({before} {value})" + ("" if key in schema.required else "?"))
        if schema.others is not False:
            value = self._value(rules, schema.others, tool.parameters, f"other_{number}")
            parts.append(f"({self._other_key(rules, schema.properties)} {value})*")
        return " ".join([*parts, rules.mark(tags.line + tags.end)])

    def _other_key(self, rules: Rules, listed: Collection[str]) -> str:
        """Returns the rule for a name that is not in `listed`, with the tags around it."""
        tags, pattern = self._tags, _OTHER_KEY
        if listed:
            pattern += f" & ~({' | '.join(map(literal, listed))})"
        return rules.between(tags.line + tags.key, pattern, tags.value + tags.value_line)

    def _value(self, rules: Rules, schema: Any, root: Mapping[str, Any], name: str) -> str:
        """Returns the rule for a value and the tag after it. An empty `enum` has no effect.

        `root`: the schema that contains the definitions to which `schema` may refer.
        """
        if isinstance(schema, Mapping) and schema.get("enum") == []:
            schema = {key: value for key, value in schema.items() if key != "enum"}
        if not isinstance(schema, Mapping) or (_is_text(schema) and "enum" not in schema):
            return rules.until(self._tags.after_value)
        end = self._tags.value_line + self._tags.after_value
        values = schema.get("enum")
        if _is_text(schema) and isinstance(values, list) and _are_texts(values):
            return f"({' | '.join(map(literal, values))}) {rules.mark(end)}"
        definitions = {key: root[key] for key in ("$defs", "definitions") if key in root}
        return f"{rules.add(name, rules.json({**definitions, **schema}))} {rules.mark(end)}"


class XmlCallReader:
    """Reads a tool call with a tag for each argument, and returns the arguments as JSON.

    The value of an argument that the schema declares as a text is a text. Any other value is JSON
    if it is valid JSON, otherwise a text. `schemas`: the arguments of the tools, by their names.
    """

    def __init__(self, index: int, schemas: Mapping[str, ArgumentSchema], tags: Tags) -> None:
        self.state: Literal["open", "done", "failed"] = "open"
        self.rest = ""
        self.num_calls = 0
        self._index = index
        self._schemas = schemas
        self._schema = ArgumentSchema({}, (), others=True)
        self._num_arguments = 0
        # All quantifiers are possessive, so that the pattern never backtracks over white space.
        before, after = re.escape(tags.before_name), re.escape(tags.after_name)
        self._name = re.compile(rf"\s*+{before}([^<>\n]*+)\s*+{after}\s*+(?=<)")
        self._argument = re.compile(
            rf"\s*{re.escape(tags.key)}(.*?){_spaced(tags.value)}(.*?){re.escape(tags.after_value)}",
            re.DOTALL,
        )
        self._call_end = re.compile(rf"\s*{_spaced(tags.end)}")
        self._after_value = tags.after_value
        self._value_line = tags.value_line
        self._known = [tags.key, *tags.end.split("\n")]

    def feed(self, text: str) -> list[Chunk]:
        self.rest += text
        chunks = [] if self.num_calls else self._read_name()
        while self.num_calls and self._after_value in self.rest:
            if not (match := self._argument.match(self.rest)):
                break
            self.rest = self.rest[match.end() :]
            chunks.append(self._delta(self._written(match[1].strip(), match[2])))
        if self.num_calls and (match := self._call_end.match(self.rest)):
            self.rest = self.rest[match.end() :]
            return [*chunks, *self._end()]
        if self.num_calls and not self._may_continue():
            chunks += self._end()
        return chunks

    def flush(self) -> list[Chunk]:
        """Ends the call. Drops an argument that has not ended."""
        if not self.num_calls:
            self.state = "failed"
            return []
        self.rest = ""
        return self._end()

    def _read_name(self) -> list[Chunk]:
        match = self._name.match(self.rest, 0, MAX_HEAD)
        if not match and len(self.rest) <= MAX_HEAD:
            return []
        if not match or (name := match[1].strip()) not in self._schemas:
            self.state = "failed"
            return []
        self.num_calls = 1
        self.rest = self.rest[match.end() :]
        self._schema = self._schemas[name]
        return [Chunk(tool_call=ToolCallDelta(self._index, name=name), num_tokens=0)]

    def _written(self, key: str, value: str) -> str:
        """Returns an argument as a part of a JSON object."""
        value = value.removeprefix(self._value_line).removesuffix(self._value_line)
        opening = ", " if self._num_arguments else "{"
        self._num_arguments += 1
        text = json.dumps(_value_of(value, self._schema.schema_of(key)), ensure_ascii=False)
        return f"{opening}{json.dumps(key, ensure_ascii=False)}: {text}"

    def _end(self) -> list[Chunk]:
        self.state = "done"
        return [self._delta("}" if self._num_arguments else "{}")]

    def _delta(self, arguments: str) -> Chunk:
        return Chunk(tool_call=ToolCallDelta(self._index, arguments), num_tokens=0)

    def _may_continue(self) -> bool:
        """Returns whether the rest may be the beginning of an argument or of the call's end."""
        text = self.rest.lstrip()
        return any(text.startswith(tag) or tag.startswith(text) for tag in self._known)


def _spaced(tags: str) -> str:
    """Returns a pattern for tags that may have white space between them."""
    return re.escape(tags.replace("\n", "")).replace("><", r">\s*<")


def _is_text(schema: Mapping[str, Any]) -> bool:
    return schema.get("type") == "string"


def _are_texts(values: list[Any]) -> bool:
    return bool(values) and all(isinstance(value, str) for value in values)


def _value_of(text: str, schema: Any) -> Any:
    if isinstance(schema, Mapping) and _is_text(schema):
        return text
    try:
        return parse_json(text)
    except (ValueError, RecursionError):
        return text
