"""The output format of Llama 3 and 4: the whole completion is one call as a JSON object."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from workers_ai_emulator.engine.types import Chunk
from workers_ai_emulator.prompts.output_formats.grammar import Rules
from workers_ai_emulator.prompts.output_formats.hermes import json_call_rule
from workers_ai_emulator.prompts.output_formats.json_calls import JsonCallReader
from workers_ai_emulator.prompts.output_formats.output_format import Constraint, Parser
from workers_ai_emulator.prompts.output_formats.tagged_calls import text_chunks
from workers_ai_emulator.prompts.output_formats.tagged_format import TaggedFormat
from workers_ai_emulator.prompts.tools import Tool

_START = "<|python_tag|>"  # optional


class LlamaFormat(TaggedFormat):
    """`{"name": …, "parameters": {…}}`. Several calls are separated by semicolons.

    The chat templates accept only one call in each message, so a grammar also allows only one.
    """

    markers = (_START,)
    has_single_calls = True

    def call_parser(self, tools: Sequence[Tool]) -> Parser:
        return LlamaParser({tool.name for tool in tools})

    def _answer(self, rules: Rules, constraint: Constraint, excluded: str | None) -> str:
        free = self._free_answer(rules, constraint, excluded)
        # JSON of another schema could not be told from a call, so JSON mode excludes calls.
        if not constraint.tools or (constraint.is_json and not constraint.is_required):
            return free
        call = json_call_rule(rules, constraint, "parameters")
        if constraint.is_required:
            return call
        # A text that begins like a call must be a call.
        rules.add("NO_CALL", rf"/\s*[^\s{{](.|\n)*/ & {free}")
        return f"{call} | NO_CALL?"

    def call_rule(self, rules: Rules, constraint: Constraint) -> tuple[str, str]:
        return "", json_call_rule(rules, constraint, "parameters")


class LlamaParser:
    """Parses a completion that begins with a call. Any other completion is text.

    `names`: the tools that may be called.
    """

    def __init__(self, names: Collection[str]) -> None:
        self._names = names
        self._num_calls = 0
        self._held = ""
        self._reader: JsonCallReader | None = None
        self._is_text = False

    def feed(self, text: str) -> list[Chunk]:
        if self._is_text:
            return text_chunks(text)
        if self._reader is None:
            return self._read_opening(text)
        chunks = self._reader.feed(text)
        return chunks + self._end_call(self._reader)

    def flush(self) -> list[Chunk]:
        chunks = []
        if self._reader:
            chunks += self._reader.flush()
            chunks += self._end_call(self._reader)
        is_dropped = self._num_calls and not self._held.strip("; \n\t\r")
        return chunks if is_dropped else chunks + text_chunks(self._held)

    def _read_opening(self, text: str) -> list[Chunk]:
        """Reads the text before a call: white space, a tag, or a separator between two calls."""
        self._held += text
        after = self._held.lstrip("; \n\t\r" if self._num_calls else None)
        after = after.removeprefix(_START).lstrip()
        if not after or _START.startswith(after):
            return []
        if after.startswith("{"):
            self._reader = JsonCallReader(self._num_calls, self._names)
            self._held = self._held[: -len(after)]
            return self.feed(after)
        self._is_text = True
        return text_chunks(self._take_held())

    def _end_call(self, reader: JsonCallReader) -> list[Chunk]:
        if reader.state == "open":
            return []
        self._reader = None
        if reader.state == "done":
            self._num_calls += 1
            self._held = ""
            return self._read_opening(reader.rest)
        self._is_text = True
        return text_chunks(self._take_held() + reader.rest)

    def _take_held(self) -> str:
        held, self._held = self._held, ""
        return held
