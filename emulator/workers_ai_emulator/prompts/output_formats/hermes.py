"""The output format of Hermes, Qwen 2.5 and 3, QwQ and Granite: JSON between `<tool_call>` tags.

The emulator also uses this format for models whose chat template does not support tools.
"""

from __future__ import annotations

from collections.abc import Sequence

from workers_ai_emulator.prompts.output_formats.grammar import Rules, literal
from workers_ai_emulator.prompts.output_formats.json_calls import EnclosedReader, JsonCallReader
from workers_ai_emulator.prompts.output_formats.output_format import Constraint
from workers_ai_emulator.prompts.output_formats.tagged_calls import TaggedCallParser
from workers_ai_emulator.prompts.output_formats.tagged_format import TaggedFormat
from workers_ai_emulator.prompts.tools import Tool

_START, _END = "<tool_call>", "</tool_call>"


class HermesFormat(TaggedFormat):
    markers = (_START, _END)

    def call_parser(self, tools: Sequence[Tool]) -> TaggedCallParser:
        names = {tool.name for tool in tools}
        return TaggedCallParser(
            _START, lambda index: EnclosedReader(JsonCallReader(index, names), _END)
        )

    def call_rule(self, rules: Rules, constraint: Constraint) -> tuple[str, str]:
        call = json_call_rule(rules, constraint)
        return _START, f'"\\n" {call} "\\n" {rules.mark(_END)}'


def json_call_rule(rules: Rules, constraint: Constraint, key: str = "arguments") -> str:
    """Adds a rule for a call as a JSON object with the keys `name` and `key`. Returns its name."""
    bodies = []
    for i, tool in enumerate(constraint.tools):
        head = literal(f'{{"name": {literal(tool.name)}, "{key}": ')
        arguments = rules.add(f"arguments_{i}", rules.json(tool.parameters))
        bodies.append(f'{head} {arguments} "}}"')
    return rules.add("call", " | ".join(bodies))
