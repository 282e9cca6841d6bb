"""The output format of Kimi K2: calls with the id `functions.NAME:NUMBER`, in a section."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from re import Pattern

from workers_ai_emulator.prompts.output_formats.grammar import Rules, literal
from workers_ai_emulator.prompts.output_formats.json_calls import HeadedCallReader
from workers_ai_emulator.prompts.output_formats.output_format import Constraint
from workers_ai_emulator.prompts.output_formats.tagged_calls import TaggedCallParser
from workers_ai_emulator.prompts.output_formats.tagged_format import TaggedFormat
from workers_ai_emulator.prompts.tools import Tool

_SECTION, _SECTION_END = "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"
_START, _ARGUMENTS = "<|tool_call_begin|>", "<|tool_call_argument_begin|>"
_END = "<|tool_call_end|>"


def _head(names: Collection[str]) -> Pattern[str]:
    name = "|".join(map(re.escape, sorted(names, key=len, reverse=True)))
    return re.compile(
        rf"\s*(?P<id>(?:functions\.)?(?P<name>{name})(?::\d+)?)\s*{re.escape(_ARGUMENTS)}\s*(?=\{{)"
    )


class KimiFormat(TaggedFormat):
    quotes_names = False
    markers = (_SECTION, _START, _ARGUMENTS, _END, _SECTION_END)

    def call_parser(self, tools: Sequence[Tool]) -> TaggedCallParser:
        names = {tool.name for tool in tools}
        head = _head(names)
        return TaggedCallParser(
            _START,
            lambda index: HeadedCallReader(index, names, head, _END),
            ignored=(_SECTION, _SECTION_END),
        )

    def call_rule(self, rules: Rules, constraint: Constraint) -> tuple[str, str]:
        bodies = []
        for i, tool in enumerate(constraint.tools):
            arguments = rules.add(f"arguments_{i}", rules.json(tool.parameters))
            head = literal(f"functions.{tool.name}:")
            bodies.append(f"{head} /[0-9]{{1,2}}/ {rules.mark(_ARGUMENTS)} {arguments}")
        call = rules.add("call", " | ".join(bodies))
        first = f"{rules.mark(_START)} ({call}) {rules.mark(_END)}"
        more = f" ({first})*" if constraint.is_parallel else ""
        return _SECTION, f"{first}{more} {rules.mark(_SECTION_END)}"
