"""Tests the output formats: what each parser finds in a completion, however the text is cut."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from random import Random

import pytest
from workers_ai_emulator.engine.types import Chunk
from workers_ai_emulator.prompts.output_formats.gemma import GemmaFormat, parse_arguments
from workers_ai_emulator.prompts.output_formats.harmony import HarmonyFormat
from workers_ai_emulator.prompts.output_formats.hermes import HermesFormat
from workers_ai_emulator.prompts.output_formats.kimi import KimiFormat
from workers_ai_emulator.prompts.output_formats.llama import LlamaFormat
from workers_ai_emulator.prompts.output_formats.mistral import (
    MistralArgumentsFormat,
    MistralListFormat,
)
from workers_ai_emulator.prompts.output_formats.output_format import (
    OutputFormat,
    Stage,
    ThinkingTags,
)
from workers_ai_emulator.prompts.output_formats.xml_calls import (
    ARGUMENT_KEYS,
    PARAMETERS,
    XmlFormat,
)
from workers_ai_emulator.prompts.tools import Tool

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}, "tags": {}},
}
QUOTED = 'sag "grüß dich"'
TOOLS = [Tool(name, "", SCHEMA) for name in ("get_weather", "add", QUOTED, "猫")]
THINK = ThinkingTags()

HERMES = HermesFormat(THINK)
LLAMA = LlamaFormat()
MISTRAL = MistralListFormat()
MISTRAL_ARGS = MistralArgumentsFormat(ThinkingTags("[THINK]", "[/THINK]"))
HARMONY = HarmonyFormat()
GEMMA = GemmaFormat(ThinkingTags("<|channel>thought\n", "<channel|>"))
GLM = XmlFormat(ARGUMENT_KEYS, THINK)
QWEN_CODER = XmlFormat(PARAMETERS)
KIMI = KimiFormat(THINK)


@dataclass
class Parsed:
    """A parsed completion. `calls`: the name, arguments and id of each tool call."""

    text: str = ""
    reasoning: str = ""
    calls: Sequence[tuple[str, str, str | None]] = field(default_factory=list)


def collect(chunks: Iterable[Chunk]) -> Parsed:
    parsed = Parsed()
    calls: dict[int, list[str | None]] = {}
    for chunk in chunks:
        assert chunk.num_tokens == 0
        assert chunk.text or chunk.reasoning or chunk.tool_call
        parsed.text += chunk.text
        parsed.reasoning += chunk.reasoning
        if delta := chunk.tool_call:
            if delta.index not in calls:
                assert delta.name is not None and delta.index == len(calls)
                calls[delta.index] = [delta.name, "", delta.id]
            else:
                assert delta.name is None
            calls[delta.index][1] = (calls[delta.index][1] or "") + delta.arguments
    parsed.calls = [(c[0] or "", c[1] or "", c[2]) for c in calls.values()]
    return parsed


def parse(output_format: OutputFormat, pieces: Iterable[str], stage: Stage = "before") -> Parsed:
    parser = output_format.parser(TOOLS, stage)
    chunks = [chunk for piece in pieces for chunk in parser.feed(piece)]
    return collect(chunks + parser.flush())


ARGUMENTS = '{"city": "Pa\\"r}is<", "days": 3}'
CALL = '{"name": "get_weather", "arguments": ' + ARGUMENTS + "}"
WEATHER = ("get_weather", ARGUMENTS, None)
QUOTED_CALL = json.dumps({"name": QUOTED, "arguments": {}}, ensure_ascii=False)
# Completions with what their format's parser must find.
CASES: dict[str, tuple[OutputFormat, str, Parsed]] = {
    "text": (HERMES, "Hello < world", Parsed("Hello < world")),
    "empty": (HERMES, "", Parsed()),
    "white space": (HERMES, "\n ", Parsed("\n ")),
    "thinking": (HERMES, "<think>\nHm <b>.\n</think>\n\nYes", Parsed("\n\nYes", "\nHm <b>.\n")),
    "thinking only": (HERMES, "\n<think>Hm </thin", Parsed("", "Hm </thin")),
    "thinking later": (HERMES, "x<think>Hm</think>", Parsed("x<think>Hm</think>")),
    "hermes": (
        HERMES,
        f"Look:\n<tool_call>\n{CALL}\n</tool_call>",
        Parsed("Look:\n", "", [WEATHER]),
    ),
    "hermes after thinking": (
        HERMES,
        f"<think>a</think>\n\n<tool_call>\n{CALL}\n</tool_call>\n",
        Parsed("\n\n", "a", [WEATHER]),
    ),
    "hermes twice": (
        HERMES,
        f"<tool_call>\n{CALL}\n</tool_call>\n<tool_call>{CALL}</tool_call>\n bye \n",
        Parsed("\n bye \n", "", [WEATHER, WEATHER]),
    ),
    "hermes with the name last": (
        HERMES,
        f'<tool_call>{{"arguments": {ARGUMENTS}, "name": "add"}}</tool_call>',
        Parsed("", "", [("add", json.dumps(json.loads(ARGUMENTS)), None)]),
    ),
    "hermes with arguments as text": (
        HERMES,
        '<tool_call>{"name": "add", "arguments": "{\\"days\\": 1}"}</tool_call>',
        Parsed("", "", [("add", '{"days": 1}', None)]),
    ),
    "hermes with the name last and a number that JSON does not have": (
        HERMES,
        '<tool_call>{"arguments": {"days": NaN}, "name": "add"}</tool_call>',
        Parsed('<tool_call>{"arguments": {"days": NaN}, "name": "add"}</tool_call>'),
    ),
    "hermes without arguments": (
        HERMES,
        '<tool_call>{"name": "add"}</tool_call>',
        Parsed("", "", [("add", "{}", None)]),
    ),
    "hermes with a name with quotes": (
        HERMES,
        f"<tool_call>{QUOTED_CALL}</tool_call>",
        Parsed("", "", [(QUOTED, "{}", None)]),
    ),
    "hermes without an end": (HERMES, f"<tool_call>{CALL}", Parsed("", "", [WEATHER])),
    "hermes cut within the arguments": (
        HERMES,
        f"<tool_call>{CALL[:-5]}",
        Parsed("", "", [("get_weather", ARGUMENTS[:-4], None)]),
    ),
    "hermes cut within the closing marker": (
        HERMES,
        f"<tool_call>{CALL}\n</tool_",
        Parsed("", "", [WEATHER]),
    ),
    "hermes with a missing brace": (
        HERMES,
        f"<tool_call>{CALL[:-1]}</tool_call>!",
        Parsed("!", "", [WEATHER]),
    ),
    "hermes cut within the name": (
        HERMES,
        '<tool_call>\n{"name": "get_w',
        Parsed('<tool_call>\n{"name": "get_w'),
    ),
    "hermes, not JSON": (
        HERMES,
        f"<tool_call>get_weather<tool_call>{CALL}</tool_call>",
        Parsed("<tool_call>get_weather", "", [WEATHER]),
    ),
    "hermes, unknown name": (
        HERMES,
        '<tool_call>{"name": "rm", "arguments": {"x": 1}}</tool_call>',
        Parsed('<tool_call>{"name": "rm", "arguments": {"x": 1}}</tool_call>'),
    ),
    "hermes, other object": (
        HERMES,
        '<tool_call>{"x": 1}</tool_call>',
        Parsed('<tool_call>{"x": 1}</tool_call>'),
    ),
    "llama": (
        LLAMA,
        '{"name": "get_weather", "parameters": ' + ARGUMENTS + "}",
        Parsed("", "", [WEATHER]),
    ),
    "llama with tag and two calls": (
        LLAMA,
        f"<|python_tag|>{CALL}; {CALL}\n",
        Parsed("", "", [WEATHER, WEATHER]),
    ),
    "llama, text": (LLAMA, "Hi " + CALL, Parsed("Hi " + CALL)),
    "llama, other object": (LLAMA, '{"x": {"name": 1}} ok', Parsed('{"x": {"name": 1}} ok')),
    "llama, unknown name": (
        LLAMA,
        '{"name": "Ann", "parameters": {}} ok',
        Parsed('{"name": "Ann", "parameters": {}} ok'),
    ),
    "llama, unfinished": (LLAMA, '\n{"name": "A', Parsed('\n{"name": "A')),
    "llama, call and text": (LLAMA, CALL + "; so", Parsed("; so", "", [WEATHER])),
    "mistral": (
        MISTRAL,
        f'[TOOL_CALLS] [{CALL[:-1]}, "id": "abcdefghi"}}, {QUOTED_CALL}]',
        Parsed("", "", [WEATHER, (QUOTED, "{}", None)]),
    ),
    "mistral, not a list": (MISTRAL, "[TOOL_CALLS] no", Parsed("[TOOL_CALLS] no")),
    "mistral, empty list": (MISTRAL, "a[TOOL_CALLS][]", Parsed("a[TOOL_CALLS][]")),
    "mistral, second call malformed": (
        MISTRAL,
        f"[TOOL_CALLS][{CALL}, {{x",
        Parsed(", {x", "", [WEATHER]),
    ),
    "mistral arguments": (
        MISTRAL_ARGS,
        f"[THINK]a[/THINK]b[TOOL_CALLS]get_weather[CALL_ID]abcdefghi[ARGS]{ARGUMENTS}"
        f"[TOOL_CALLS]add[ARGS]{{}}",
        Parsed("b", "a", [("get_weather", ARGUMENTS, "abcdefghi"), ("add", "{}", None)]),
    ),
    "mistral arguments with white space": (
        MISTRAL_ARGS,
        "[TOOL_CALLS] add \n[CALL_ID] abc [ARGS] {}[TOOL_CALLS]\nadd [ARGS]\n{}",
        Parsed("", "", [("add", "{}", "abc"), ("add", "{}", None)]),
    ),
    "mistral arguments, a name with white space": (
        MISTRAL_ARGS,
        f"[TOOL_CALLS]{QUOTED} [ARGS]{{}}",
        Parsed("", "", [(QUOTED, "{}", None)]),
    ),
    "mistral arguments, unknown name": (
        MISTRAL_ARGS,
        "[TOOL_CALLS]rm[ARGS]{}",
        Parsed("[TOOL_CALLS]rm[ARGS]{}"),
    ),
    "kimi": (
        KIMI,
        "Ok<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0"
        f"<|tool_call_argument_begin|>{ARGUMENTS}<|tool_call_end|><|tool_call_begin|>"
        "functions.add:1<|tool_call_argument_begin|>{}<|tool_call_end|>"
        "<|tool_calls_section_end|>",
        Parsed(
            "Ok",
            "",
            [
                ("get_weather", ARGUMENTS, "functions.get_weather:0"),
                ("add", "{}", "functions.add:1"),
            ],
        ),
    ),
    "harmony": (
        HARMONY,
        "<|channel|>analysis<|message|>Hm < 3<|end|><|start|>assistant"
        "<|channel|>final<|message|>Yes<|return|>",
        Parsed("Yes", "Hm < 3"),
    ),
    "harmony, call": (
        HARMONY,
        "<|channel|>analysis<|message|>Hm<|end|><|start|>assistant to=functions.get_weather"
        f"<|channel|>commentary json<|message|>{ARGUMENTS}<|call|>",
        Parsed("", "Hm", [WEATHER]),
    ),
    "harmony, recipient in the channel": (
        HARMONY,
        "<|channel|>commentary<|message|>I look<|end|><|start|>assistant<|channel|>commentary "
        f"to=functions.get_weather <|constrain|>json<|message|>{ARGUMENTS}",
        Parsed("I look", "", [WEATHER]),
    ),
    "harmony without channels": (HARMONY, "Hello <| world", Parsed("Hello <| world")),
    "harmony, unfinished header": (HARMONY, "<|channel|>fin", Parsed()),
    "harmony, beginning of a call": (HARMONY, " to=functions.get_w", Parsed()),
    "harmony, text like a recipient": (HARMONY, "to=5 is right", Parsed("to=5 is right")),
    "harmony, unknown recipient": (
        HARMONY,
        "<|channel|>commentary to=functions.rm<|message|>{}",
        Parsed("{}"),
    ),
    "harmony, endless header": (
        HARMONY,
        "<|channel|>" + 1100 * "x" + "<|message|>y",
        Parsed("<|channel|>" + 1100 * "x" + "<|message|>y"),
    ),
    "gemma": (
        GEMMA,
        '<|channel>thought\nHm<channel|>Ok<|tool_call>call:get_weather{city:<|"|>Pa{r,is<|"|>,'
        "days:3,tags:[true,null,{a:-1.5}]}<tool_call|>",
        Parsed(
            "Ok",
            "Hm",
            [
                (
                    "get_weather",
                    '{"city": "Pa{r,is", "days": 3, "tags": [true, null, {"a": -1.5}]}',
                    None,
                )
            ],
        ),
    ),
    "gemma, numbers that JSON does not have": (
        GEMMA,
        "<|tool_call>call:add{x:NaN,y:-Infinity,z:[1e999,1e9]}<tool_call|>",
        Parsed(
            "",
            "",
            [("add", '{"x": "NaN", "y": "-Infinity", "z": ["1e999", 1000000000.0]}', None)],
        ),
    ),
    "gemma, malformed": (
        GEMMA,
        "<|tool_call>call:add{city:}<tool_call|>",
        Parsed("<|tool_call>call:add{city:}<tool_call|>"),
    ),
    "gemma, cut within an argument": (
        GEMMA,
        '<|tool_call>call:add{city:<|"|>x, y<|"|>,tags:[1,{a:2',
        Parsed("", "", [("add", '{"city": "x, y"}', None)]),
    ),
    "gemma, cut within a number": (
        GEMMA,
        "<|tool_call>call:add{days:1",
        Parsed("", "", [("add", "{}", None)]),
    ),
    "gemma, cut within the closing marker": (
        GEMMA,
        "<|tool_call>call:add{days:1}<tool_c",
        Parsed("", "", [("add", '{"days": 1}', None)]),
    ),
    "gemma, text instead of the closing marker": (
        GEMMA,
        "<|tool_call>call:add{days:1} so",
        Parsed(" so", "", [("add", '{"days": 1}', None)]),
    ),
    "gemma, cut within the name": (
        GEMMA,
        "<|tool_call>call:ad",
        Parsed("<|tool_call>call:ad"),
    ),
    "gemma, quoted keys": (
        GEMMA,
        '<|tool_call>call:add{<|"|>a: {b}<|"|>:1,<|"|><|"|>:2}<tool_call|>',
        Parsed("", "", [("add", '{"a: {b}": 1, "": 2}', None)]),
    ),
    "gemma, no end": (GEMMA, "<|tool_call>call:add{}", Parsed("", "", [("add", "{}", None)])),
    "glm": (
        GLM,
        "Ok<tool_call>get_weather<arg_key>city</arg_key><arg_value>12</arg_value>"
        "<arg_key>tags</arg_key>\n<arg_value>[1]</arg_value></tool_call>\n<tool_call>add\n"
        "</tool_call>",
        Parsed(
            "Ok",
            "",
            [("get_weather", '{"city": "12", "tags": [1]}', None), ("add", "{}", None)],
        ),
    ),
    "glm, numbers that JSON does not have": (
        GLM,
        "<tool_call>add<arg_key>days</arg_key><arg_value>NaN</arg_value>"
        "<arg_key>tags</arg_key><arg_value>[Infinity]</arg_value></tool_call>",
        Parsed("", "", [("add", '{"days": "NaN", "tags": "[Infinity]"}', None)]),
    ),
    "glm with white space": (
        GLM,
        f"<tool_call> \n {QUOTED} \n \n<arg_key> days\n</arg_key><arg_value>3</arg_value>\n"
        "</tool_call>",
        Parsed("", "", [(QUOTED, '{"days": 3}', None)]),
    ),
    "glm, no name": (
        GLM,
        "<tool_call>\n<tool_call> \n <tool_call>add</tool_call>",
        Parsed("<tool_call>\n<tool_call> \n ", "", [("add", "{}", None)]),
    ),
    "glm, unknown name": (
        GLM,
        "<tool_call>rm</tool_call>",
        Parsed("<tool_call>rm</tool_call>"),
    ),
    "glm, cut": (
        GLM,
        "<tool_call>add<arg_key>city</arg_key><arg_value>x</arg_value><arg_key>da",
        Parsed("", "", [("add", '{"city": "x"}', None)]),
    ),
    "glm, junk": (
        GLM,
        "<tool_call>add<arg_key>city</arg_key><arg_value>x</arg_value> so <b>",
        Parsed(" so <b>", "", [("add", '{"city": "x"}', None)]),
    ),
    "qwen coder": (
        QWEN_CODER,
        "<tool_call>\n<function=get_weather>\n<parameter=city>\nPa\nris\n</parameter>\n"
        "<parameter=days>\n3\n</parameter>\n</function>\n</tool_call>",
        Parsed("", "", [("get_weather", '{"city": "Pa\\nris", "days": 3}', None)]),
    ),
    "qwen coder, numbers that JSON does not have": (
        QWEN_CODER,
        "<tool_call>\n<function=add>\n<parameter=days>\n-1e999\n</parameter>\n"
        "<parameter=tags>\nNaN\n</parameter>\n</function>\n</tool_call>",
        Parsed("", "", [("add", '{"days": "-1e999", "tags": "NaN"}', None)]),
    ),
    "qwen coder with white space": (
        QWEN_CODER,
        f"<tool_call> \n <function= {QUOTED} \n > \n</function> </tool_call>",
        Parsed("", "", [(QUOTED, "{}", None)]),
    ),
    "qwen coder without arguments": (
        QWEN_CODER,
        "<tool_call>\n<function=猫>\n</function>\n</tool_call>",
        Parsed("", "", [("猫", "{}", None)]),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_completion_is_parsed_however_it_is_cut(name: str) -> None:
    output_format, text, expected = CASES[name]
    assert parse(output_format, [text]) == expected
    assert parse(output_format, text) == expected
    for cut in range(len(text)):
        assert parse(output_format, [text[:cut], text[cut:]]) == expected, text[:cut]


@pytest.mark.parametrize("name", CASES)
def test_changed_completions_are_parsed_in_the_same_way_however_they_are_cut(name: str) -> None:
    """Removes, repeats and moves pieces of a completion, so that its calls are malformed."""
    output_format, original, _ = CASES[name]
    random = Random(name)
    for _ in range(150):
        start, end = sorted(random.choices(range(len(original) + 1), k=2))
        piece = random.choice(["", original[start:end], original])
        text = original[:start] + piece + original[random.choice([start, end]) :]
        whole = parse(output_format, [text])
        assert parse(output_format, text) == whole, text
        cuts = sorted(random.choices(range(len(text) + 1), k=3))
        pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        assert parse(output_format, pieces) == whole, pieces


@pytest.mark.parametrize(
    "output_format", [HERMES, LLAMA, MISTRAL, MISTRAL_ARGS, HARMONY, GEMMA, GLM, KIMI]
)
def test_a_text_without_markers_is_not_held_back(output_format: OutputFormat) -> None:
    parser = output_format.parser(TOOLS, "before")
    words = ["Hello ", "wor", "ld. ", "a < b", " and c"]
    for word in words:
        assert collect(parser.feed(word)) == Parsed(word)


@pytest.mark.parametrize(
    ("output_format", "beginning"),
    [
        (MISTRAL_ARGS, "[TOOL_CALLS]"),
        (KIMI, "<|tool_call_begin|>"),
        (GLM, "<tool_call>"),
        (QWEN_CODER, "<tool_call>\n<function="),
    ],
)
@pytest.mark.parametrize("separator", [" ", "\n", "a "])
def test_a_call_whose_name_does_not_end_is_returned_as_text(
    output_format: OutputFormat, beginning: str, separator: str
) -> None:
    """The text is so long that a parser that backtracks over it would take hours."""
    parser = output_format.parser(TOOLS, "before")
    text = beginning + 1100 * separator
    assert collect(chunk for piece in text for chunk in parser.feed(piece)).text.strip()
    assert parse(output_format, text) == Parsed(text)
    assert parse(output_format, [text]) == Parsed(text)


def test_arguments_are_returned_while_they_arrive() -> None:
    parser = HERMES.parser(TOOLS, "before")
    parser.feed('<tool_call>\n{"name": "add", "arguments": {')
    for piece in ('"da', 'ys": ', "1", "2"):
        (chunk,) = parser.feed(piece)
        assert chunk.tool_call and chunk.tool_call.arguments == piece


def test_no_part_of_a_channel_header_is_in_the_answer() -> None:
    reasoning = "<|channel|>analysis<|message|>Hm<|end|>"
    for header in (
        "<|start|>assistant<|channel|>final<|message|>",
        "<|start|>assistant to=functions.get_weather<|channel|>commentary json<|message|>",
        "<|start|>assistant<|channel|>commentary to=functions.get_weather <|constrain|>json",
    ):
        for cut in range(len(header)):
            first = header[:cut].removeprefix("<|start|>assistant")
            assert not parse(HARMONY, [first]).text.strip(), first
            assert parse(HARMONY, [reasoning + header[:cut]]) == Parsed("", "Hm"), header[:cut]


@pytest.mark.parametrize(
    ("prompt", "stage"),
    [
        ("<think>\n", "inside"),
        ("<think>", "inside"),
        ("<think>\n\n</think>\n\n", "after"),
        ("<think>x</think>user\n<|im_start|>assistant\n", "before"),
    ],
)
def test_the_end_of_the_prompt_tells_where_the_completion_begins(prompt: str, stage: Stage) -> None:
    assert HERMES.stage_of(prompt) == stage
    assert LLAMA.stage_of(prompt) == "before"


def test_a_completion_may_begin_inside_or_after_the_reasoning() -> None:
    assert parse(GLM, "Hm</think>Yes", "inside") == Parsed("Yes", "Hm")
    assert parse(GLM, "<think>Yes", "after") == Parsed("<think>Yes")


def test_without_tools_and_reasoning_a_completion_is_text() -> None:
    text = f"<think>a</think><tool_call>{CALL}</tool_call>"
    parser = HERMES.parser([], "before", separates_reasoning=False)
    assert collect([*parser.feed(text), *parser.flush()]) == Parsed(text)


@pytest.mark.parametrize(
    "text",
    ["", "{", "{a:1", "{a:1}}", "{:1}", "[1,]x", 100 * "[" + 100 * "]", "{a:}", '{a:<|"|>x}'],
)
def test_malformed_gemma_arguments_are_an_error(text: str) -> None:
    with pytest.raises(ValueError):
        parse_arguments(text)
