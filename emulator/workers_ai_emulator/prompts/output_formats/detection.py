"""Finds out from the source of a chat template in which format its model writes tool calls."""

from __future__ import annotations

import re
from collections.abc import Callable

from workers_ai_emulator.prompts.output_formats.gemma import GemmaFormat
from workers_ai_emulator.prompts.output_formats.harmony import HarmonyFormat
from workers_ai_emulator.prompts.output_formats.hermes import HermesFormat
from workers_ai_emulator.prompts.output_formats.kimi import KimiFormat
from workers_ai_emulator.prompts.output_formats.llama import LlamaFormat
from workers_ai_emulator.prompts.output_formats.mistral import (
    MistralArgumentsFormat,
    MistralListFormat,
)
from workers_ai_emulator.prompts.output_formats.output_format import OutputFormat, ThinkingTags
from workers_ai_emulator.prompts.output_formats.xml_calls import (
    ARGUMENT_KEYS,
    PARAMETERS,
    XmlFormat,
)

_TOOLS = re.compile(r"\{[%{][^%}]*\btools\b")
_GEMMA_THOUGHT = ThinkingTags("<|channel>thought\n", "<channel|>")
_TAGS = (
    _GEMMA_THOUGHT,
    ThinkingTags(),
    ThinkingTags("[THINK]", "[/THINK]"),
    ThinkingTags("<seed:think>", "</seed:think>"),
    ThinkingTags("<|START_THINKING|>", "<|END_THINKING|>"),
)
_Make = Callable[[ThinkingTags | None], OutputFormat]
# The texts that a template of the format contains, and the format. The first match counts.
_FORMATS: tuple[tuple[tuple[str, ...], _Make], ...] = (
    (("<|channel|>", "<|message|>"), HarmonyFormat),
    (("<|tool_call>",), GemmaFormat),
    (("[TOOL_CALLS]", "[ARGS]"), MistralArgumentsFormat),
    (("[TOOL_CALLS]",), MistralListFormat),
    (("<|tool_calls_section_begin|>",), KimiFormat),
    (("<tool_call>", "<arg_key>"), lambda tags: XmlFormat(ARGUMENT_KEYS, tags)),
    (("<tool_call>", "<function=", "<parameter="), lambda tags: XmlFormat(PARAMETERS, tags)),
    (("<tool_call>", "</tool_call>", '"name": '), HermesFormat),
    (("ipython", '"parameters": '), LlamaFormat),
)


def format_of(source: str) -> OutputFormat:
    """Returns the output format of the model with this chat template.

    If the template does not describe tools, or describes them in an unknown format, the result is
    the format of Hermes: `describe_tools` then describes the tools in that format.
    """
    thinking = next((tags for tags in _TAGS if tags.end in source), None)
    make = _known(source) if describes_tools(source) else None
    if make is None and _FORMATS[0][1] is _known(source):
        make = HarmonyFormat  # its channels also separate the reasoning
    return (make or HermesFormat)(thinking)


def describes_tools(source: str) -> bool:
    """Returns whether the template describes tools to the model, in a format that we know."""
    return bool(_TOOLS.search(source)) and _known(source) is not None


def _known(source: str) -> _Make | None:
    return next((make for texts, make in _FORMATS if all(t in source for t in texts)), None)
