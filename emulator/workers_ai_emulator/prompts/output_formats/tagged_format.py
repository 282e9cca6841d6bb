"""The base class of the output formats in which a marker begins every tool call."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence

from workers_ai_emulator.prompts.output_formats.grammar import Rules
from workers_ai_emulator.prompts.output_formats.output_format import (
    Constraint,
    OutputFormat,
    Parser,
    Stage,
)
from workers_ai_emulator.prompts.output_formats.thinking import TextParser, ThinkingParser
from workers_ai_emulator.prompts.tools import Tool


class TaggedFormat(OutputFormat):
    """A format in which every tool call begins with a marker. Other text may come before it."""

    def parser(
        self, tools: Sequence[Tool], stage: Stage, *, separates_reasoning: bool = True
    ) -> Parser:
        answer: Parser = self.call_parser(tools) if tools else TextParser()
        if separates_reasoning and self.thinking:
            return ThinkingParser(self.thinking, stage, answer)
        return answer

    def grammar(self, constraint: Constraint, special_tokens: Mapping[str, int]) -> str:
        rules = Rules(self.marker_tokens(special_tokens))
        tags = self.thinking if constraint.stage != "after" else None
        literal = rules.excluded(tags.start) if tags and constraint.stage == "before" else None
        answer = rules.add("answer", self._answer(rules, constraint, literal))
        if tags is None:
            rules.add("start", answer)
        elif constraint.stage == "inside":
            rules.add("start", f"{rules.until(tags.end)} {rules.break_} {answer}")
        else:
            thought = f"{rules.mark(tags.start)} {rules.until(tags.end)} {rules.break_}"
            rules.add("start", f"{answer} | {thought} {answer}")
        return str(rules)

    def _answer(self, rules: Rules, constraint: Constraint, excluded: str | None) -> str:
        """Returns the rule for the text after the reasoning.

        `excluded`: the text with which a free answer must not begin.
        """
        if not constraint.tools:
            return self._free_answer(rules, constraint, excluded)
        marker, call = self.call_rule(rules, constraint)
        if constraint.is_required or constraint.is_json:
            first = f"{rules.mark(marker)} {call}"
            more = f" ({rules.break_} {first})*" if constraint.is_parallel else ""
            calls = first + more
            free = "" if constraint.is_required else self._free_answer(rules, constraint, excluded)
            return f"{calls} | {free}" if free else calls
        free = self._free_answer(rules, constraint, excluded)
        first = f"{rules.until(marker, excluded)} {call}"
        if not constraint.is_parallel:
            return f"{first} | {free}"
        later = f"{rules.until(marker)} {call}"
        return f"{free} | {first} ({later})* {rules.text()}"

    def _free_answer(self, rules: Rules, constraint: Constraint, excluded: str | None) -> str:
        if constraint.is_json:
            return rules.json(constraint.json_schema)
        return rules.text(excluded)

    @abstractmethod
    def call_parser(self, tools: Sequence[Tool]) -> Parser:
        """Returns a parser for the text after the reasoning."""

    @abstractmethod
    def call_rule(self, rules: Rules, constraint: Constraint) -> tuple[str, str]:
        """Returns the marker before a tool call, and the rule for what follows the marker."""
