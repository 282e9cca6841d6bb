"""The output formats of Mistral's models, which write tool calls after `[TOOL_CALLS]`."""

from __future__ import annotations

import re
from collections.abc import Sequence

from workers_ai_emulator.prompts.output_formats.grammar import Rules, literal
from workers_ai_emulator.prompts.output_formats.hermes import json_call_rule
from workers_ai_emulator.prompts.output_formats.json_calls import HeadedCallReader, JsonListReader
from workers_ai_emulator.prompts.output_formats.output_format import Constraint
from workers_ai_emulator.prompts.output_formats.tagged_calls import TaggedCallParser
from workers_ai_emulator.prompts.output_formats.tagged_format import TaggedFormat
from workers_ai_emulator.prompts.tools import Tool

_START, _CALL_ID, _ARGUMENTS = "[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"
# All quantifiers are possessive, so that the pattern never backtracks over white space.
_HEAD = re.compile(
    r"\s*+(?P<name>(?:[^\[{\s]++(?:\s++(?=[^\[{\s]))?+)*+)\s*+"
    r"(?:\[CALL_ID\]\s*+(?P<id>[^\[{\s]*+)\s*+)?+\[ARGS\]\s*+(?=\{)"
)


class MistralListFormat(TaggedFormat):
    """The format of Nemo and 7B v0.3: `[TOOL_CALLS][{"name": …, "arguments": {…}, "id": …}]`."""

    markers = (_START,)

    def call_parser(self, tools: Sequence[Tool]) -> TaggedCallParser:
        names = {tool.name for tool in tools}
        return TaggedCallParser(_START, lambda index: JsonListReader(index, names))

    def call_rule(self, rules: Rules, constraint: Constraint) -> tuple[str, str]:
        call = json_call_rule(rules, constraint)
        more = f' (", " {call})*' if constraint.is_parallel else ""
        return _START, f'" "? "[" {call}{more} "]"'


class MistralArgumentsFormat(TaggedFormat):
    """The format since Small 3.2: `[TOOL_CALLS]NAME[CALL_ID]ID[ARGS]{…}`. The id is optional."""

    quotes_names = False
    markers = (_START, _CALL_ID, _ARGUMENTS)

    def call_parser(self, tools: Sequence[Tool]) -> TaggedCallParser:
        names = {tool.name for tool in tools}
        return TaggedCallParser(_START, lambda index: HeadedCallReader(index, names, _HEAD))

    def call_rule(self, rules: Rules, constraint: Constraint) -> tuple[str, str]:
        rules.add("call_id", f"{rules.mark(_CALL_ID)} /[a-zA-Z0-9]{{9}}/")
        bodies = []
        for i, tool in enumerate(constraint.tools):
            arguments = rules.add(f"arguments_{i}", rules.json(tool.parameters))
            bodies.append(f"{literal(tool.name)} call_id? {rules.mark(_ARGUMENTS)} {arguments}")
        return _START, rules.add("call", " | ".join(bodies))
