"""Defines what an output format is: a streaming parser of completions, and a grammar for them."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from workers_ai_emulator.engine.types import Chunk
from workers_ai_emulator.prompts.tools import Tool

# Where a completion begins: before the model's reasoning, inside it or after it.
Stage = Literal["before", "inside", "after"]


class Parser(Protocol):
    """Splits the text of a completion into answer, reasoning and tool calls.

    The result does not depend on where the text is cut: a parser holds back a text that may be the
    beginning of a marker. The `num_tokens` of the chunks that a parser returns is 0. Each character
    of the text is in a chunk, except markers, and white space around reasoning and tool calls.
    """

    def feed(self, text: str) -> list[Chunk]:
        """Parses the next text of the completion, and returns what is now complete."""

    def flush(self) -> list[Chunk]:
        """Returns what has been held back. Called once, when the completion ends."""


_PLAIN_NAME = re.compile(r"[\w.:/-]+")
_ANY_NAME = re.compile("[^\ud800-\udfff]+")  # lone surrogates cannot be generated


@dataclass(frozen=True, slots=True)
class ThinkingTags:
    """The texts before and after the model's reasoning."""

    start: str = "<think>"
    end: str = "</think>"


@dataclass(frozen=True, slots=True)
class Constraint:
    """The limits of a completion.

    `tools`: the tools that the model may call. `is_required`: whether it must call a tool.
    `is_parallel`: whether it may call several. `is_json`: whether its answer must be JSON, of
    `schema` if that is not None. `stage`: where the completion begins.
    """

    tools: tuple[Tool, ...] = ()
    is_required: bool = False
    is_parallel: bool = True
    is_json: bool = False
    schema: Mapping[str, Any] | None = None
    stage: Stage = "before"

    @property
    def json_schema(self) -> Mapping[str, Any]:
        """The schema of a JSON answer."""
        return {"type": "object"} if self.schema is None else self.schema


class OutputFormat(ABC):
    """How some models write tool calls and their reasoning.

    `thinking`: the tags of the reasoning; None if the models write none. `has_single_calls`:
    whether a completion, and so each message with calls, contains at most one call. `quotes_names`:
    whether the names of tools are JSON strings, so that they may contain any character.
    """

    has_single_calls = False
    quotes_names = True

    def __init__(self, thinking: ThinkingTags | None = None) -> None:
        self.thinking = thinking

    @property
    @abstractmethod
    def markers(self) -> Sequence[str]:
        """The texts that the parser looks for. In some vocabularies they are special tokens."""

    @property
    def all_markers(self) -> Sequence[str]:
        """The markers, and the tags of the reasoning."""
        tags = (self.thinking.start, self.thinking.end) if self.thinking else ()
        return (*self.markers, *tags)

    def marker_tokens(self, special_tokens: Mapping[str, int]) -> dict[str, int]:
        """Returns those of the special tokens that are markers or tags, with their ids."""
        return {m: special_tokens[m] for m in self.all_markers if m in special_tokens}

    def needs_parser(self, tools: Sequence[Tool], separates_reasoning: bool) -> bool:
        """Returns whether a completion can contain something else than the answer."""
        return bool(tools) or (separates_reasoning and self.thinking is not None)

    def can_write(self, name: str) -> bool:
        """Returns whether a tool call in this format can contain the name of the tool."""
        return bool((_ANY_NAME if self.quotes_names else _PLAIN_NAME).fullmatch(name))

    @abstractmethod
    def parser(
        self, tools: Sequence[Tool], stage: Stage, *, separates_reasoning: bool = True
    ) -> Parser:
        """Returns a parser for one completion.

        `tools`: the tools that the model may call; calls of others stay text.
        `separates_reasoning`: whether the parser separates the reasoning from the answer.
        """

    @abstractmethod
    def grammar(self, constraint: Constraint, special_tokens: Mapping[str, int]) -> str:
        """Returns a grammar of all completions that satisfy the constraint.

        The grammar has the syntax of llguidance's dialect of Lark. `special_tokens`: the ids of the
        vocabulary's special tokens, by their names.
        """

    def stage_of(self, prompt_end: str) -> Stage:
        """Returns where a completion begins after a prompt that ends with this text."""
        end = prompt_end.rstrip()
        if self.thinking and end.endswith(self.thinking.start.rstrip()):
            return "inside"
        return "after" if self.thinking and end.endswith(self.thinking.end) else "before"
