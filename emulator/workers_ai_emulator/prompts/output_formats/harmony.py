"""The output format of gpt-oss, called harmony: a completion consists of messages in channels.

A message is `<|channel|>CHANNEL<|message|>TEXT<|end|>`; the next one begins with
`<|start|>assistant`. The channel `analysis` is the reasoning, `final` is the answer. A message to a
recipient, `to=functions.NAME`, is a tool call whose text is the arguments; it ends the completion.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

from workers_ai_emulator.engine.types import Chunk, ToolCallDelta
from workers_ai_emulator.prompts.output_formats.grammar import Rules, literal
from workers_ai_emulator.prompts.output_formats.markers import split_at
from workers_ai_emulator.prompts.output_formats.output_format import (
    Constraint,
    OutputFormat,
    Parser,
    Stage,
)
from workers_ai_emulator.prompts.tools import Tool

_START, _CHANNEL, _MESSAGE = "<|start|>", "<|channel|>", "<|message|>"
_ENDS = ("<|end|>", "<|call|>", "<|return|>")
_CONSTRAIN = "<|constrain|>"
_RECIPIENT = re.compile(r"to=functions\.([^\s<]+)")
_CHANNEL_NAME = re.compile(r"<\|channel\|>\s*(\w*)")
_MAX_HEADER = 1024  # characters


class HarmonyFormat(OutputFormat):
    quotes_names = False
    markers = (_START, _CHANNEL, _MESSAGE, *_ENDS, _CONSTRAIN)
    has_single_calls = True

    def needs_parser(self, tools: Sequence[Tool], separates_reasoning: bool) -> bool:
        return True

    def parser(
        self, tools: Sequence[Tool], stage: Stage, *, separates_reasoning: bool = True
    ) -> Parser:
        return HarmonyParser({tool.name for tool in tools})

    def grammar(self, constraint: Constraint, special_tokens: Mapping[str, int]) -> str:
        """Returns a grammar of one completion after the prompt's last text, `<|start|>assistant`.

        A completion contains at most one call, because the model ends it with `<|call|>`.
        """
        rules = Rules(self.marker_tokens(special_tokens))
        reasoning = f'{rules.mark(_CHANNEL)} "analysis" {rules.mark(_MESSAGE)} '
        reasoning += f'{rules.until("<|end|>")} {rules.mark(_START)} "assistant"'
        rules.add("reasoning", reasoning)
        answers = [rules.add("call", self._call(rules, constraint))] if constraint.tools else []
        if not constraint.is_required:
            answers.append(rules.add("final", self._final(rules, constraint)))
        rules.add("start", f"reasoning? ({' | '.join(answers)})")
        return str(rules)

    def _final(self, rules: Rules, constraint: Constraint) -> str:
        head = f'{rules.mark(_CHANNEL)} "final" {rules.mark(_MESSAGE)}'
        if constraint.is_json:
            return f"{head} {rules.json(constraint.json_schema)}"
        return f"{head} {rules.text()}"

    def _call(self, rules: Rules, constraint: Constraint) -> str:
        """Returns the rule for a call, with the recipient before or after the channel.

        The model writes both.
        """
        channel, message = rules.mark(_CHANNEL), rules.mark(_MESSAGE)
        rules.add("kind", f'" "? {rules.mark(_CONSTRAIN)}? "json"')
        bodies = []
        for i, tool in enumerate(constraint.tools):
            to = literal(f" to=functions.{tool.name}")
            head = f'({to} {channel} "commentary" | {channel} "commentary" {to})'
            arguments = rules.add(f"arguments_{i}", rules.json(tool.parameters))
            bodies.append(f"{head} kind? {message} {arguments}")
        return " | ".join(bodies)


class HarmonyParser:
    """Parses messages in channels. Text outside the messages is a part of the answer.

    `names`: the tools that may be called. Messages to other recipients are a part of the answer.
    """

    def __init__(self, names: Collection[str]) -> None:
        self._names = names
        self._num_calls = 0
        self._held = ""
        self._kind = "header"  # or: text, reasoning, call

    def feed(self, text: str) -> list[Chunk]:
        self._held += text
        chunks: list[Chunk] = []
        while self._read_header(chunks) if self._kind == "header" else self._read_body(chunks):
            pass
        return chunks

    def flush(self) -> list[Chunk]:
        """Returns the text that was held back. Drops the beginning of a header."""
        held, self._held = self._held, ""
        is_header = self._kind == "header" and bool(_CUT_HEADER.fullmatch(held))
        return [] if is_header else self._body(held)

    def _read_header(self, chunks: list[Chunk]) -> bool:
        """Reads a message's header. Returns whether the header has ended.

        A completion whose beginning is not a header is an answer without channels.
        """
        header, marker, _ = split_at(self._held[:_MAX_HEADER], _MESSAGE)
        if marker and _HEADER.fullmatch(header):
            chunks += self._begin(header)
            self._held = self._held[len(header) + len(marker) :]
            return True
        if not marker and _may_be_header(self._held) and len(self._held) < _MAX_HEADER:
            return False
        self._kind = "text"
        chunks += self._body(self._held[0])
        self._held = self._held[1:]
        return True

    def _begin(self, header: str) -> list[Chunk]:
        """Begins the message with this header. Returns the first part of a call, if it is one."""
        channel = _CHANNEL_NAME.search(header)
        recipient = _RECIPIENT.search(header)
        self._kind = "reasoning" if channel and channel[1] == "analysis" else "text"
        if not recipient or recipient[1] not in self._names:
            return []
        self._kind = "call"
        self._num_calls += 1
        delta = ToolCallDelta(self._num_calls - 1, name=recipient[1])
        return [Chunk(tool_call=delta, num_tokens=0)]

    def _read_body(self, chunks: list[Chunk]) -> bool:
        """Reads the text of a message. Returns whether the message has ended."""
        body, marker, rest = split_at(self._held, *_ENDS, _START, _CHANNEL)
        chunks += self._body(body)
        self._held = marker + rest if marker in (_START, _CHANNEL) else rest
        if marker:
            self._kind = "header"
        return bool(marker)

    def _body(self, text: str) -> list[Chunk]:
        if not text:
            return []
        if self._kind == "reasoning":
            return [Chunk(reasoning=text, num_tokens=0)]
        if self._kind == "call":
            return [Chunk(tool_call=ToolCallDelta(self._num_calls - 1, text), num_tokens=0)]
        return [Chunk(text, num_tokens=0)]


_HEADER = re.compile(r"\s*(?:<\|start\|>(?:assistant)?\s*)?(?:to=[^<]*)?<\|channel\|>[^{]*")
# The beginning of a header. A text such as `to=5 is right` is none.
_CUT_HEADER = re.compile(r"\s*(?:to?|(?:to=\S*\s*)?<.*|to=\S*)", re.DOTALL)
_BEGINNINGS = (_START, _CHANNEL, "to=")


def _may_be_header(text: str) -> bool:
    """Returns whether a header may begin with this text."""
    after = text.lstrip()
    return any(after.startswith(start) or start.startswith(after) for start in _BEGINNINGS)
