"""Tests the grammars of the output formats with llguidance, on a vocabulary of bytes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper
from workers_ai_emulator.prompts.output_formats.grammar import closed
from workers_ai_emulator.prompts.output_formats.output_format import Constraint, OutputFormat
from workers_ai_emulator.prompts.tools import Tool

from tests.unit.test_output_formats import (
    GEMMA,
    GLM,
    HARMONY,
    HERMES,
    KIMI,
    LLAMA,
    MISTRAL,
    MISTRAL_ARGS,
    QUOTED,
    QWEN_CODER,
    parse,
)

PLACE = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer"},
        "unit": {"type": "string", "enum": ["C", "F"]},
    },
    "required": ["city"],
}
TOOLS = (Tool("get_weather", "", PLACE), Tool(QUOTED, "", {"type": "object", "properties": {}}))
FORMATS = {
    "hermes": HERMES,
    "llama": LLAMA,
    "mistral": MISTRAL,
    "mistral arguments": MISTRAL_ARGS,
    "kimi": KIMI,
    "harmony": HARMONY,
    "gemma": GEMMA,
    "glm": GLM,
    "qwen coder": QWEN_CODER,
}
# A call of get_weather with two arguments, as the models of each format write it.
CALLS = {
    "hermes": '<tool_call>\n{"name": "get_weather", "arguments": {"city": "P", "days": 3}}\n'
    "</tool_call>",
    "llama": '{"name": "get_weather", "parameters": {"city": "P", "days": 3}}',
    "mistral": '[TOOL_CALLS][{"name": "get_weather", "arguments": {"city": "P", "days": 3}}]',
    "mistral arguments": '[TOOL_CALLS]get_weather[CALL_ID]abcdefghi[ARGS]{"city": "P", "days": 3}',
    "kimi": "<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0"
    '<|tool_call_argument_begin|>{"city": "P", "days": 3}<|tool_call_end|>'
    "<|tool_calls_section_end|>",
    "harmony": "<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>"
    '{"city": "P", "days": 3}',
    "gemma": '<|tool_call>call:get_weather{city:<|"|>P<|"|>,days:3}<tool_call|>',
    "glm": "<tool_call>get_weather<arg_key>city</arg_key><arg_value>P</arg_value>"
    "<arg_key>days</arg_key><arg_value>3</arg_value></tool_call>",
    "qwen coder": "<tool_call>\n<function=get_weather>\n<parameter=city>\nP\n</parameter>\n"
    "<parameter=days>\n3\n</parameter>\n</function>\n</tool_call>",
}
END = 256


class Bytes:
    """A tokenizer with one token per byte, an end token, and the given special tokens."""

    bos_token_id = None
    eos_token_id = END

    def __init__(self, names: list[str]) -> None:
        self.special = {name: END + 1 + i for i, name in enumerate(names)}
        self.tokens = [bytes([i]) for i in range(256)]
        self.tokens += [b"<end>", *(name.encode() for name in names)]
        self.special_token_ids = [END, *self.special.values()]

    def __call__(self, text: bytes) -> list[int]:
        return list(text)

    def encode(self, text: str) -> list[int]:
        for name, token in self.special.items():
            if name in text:
                before, _, after = text.partition(name)
                return [*self.encode(before), token, *self.encode(after)]
        return list(text.encode())


def accepts(
    output_format: OutputFormat, constraint: Constraint, text: str, *, are_special: bool
) -> bool:
    """Returns whether a completion may be `text` and then end."""
    tokenizer = Bytes(sorted(output_format.markers, key=len) if are_special else [])
    grammar = output_format.grammar(constraint, tokenizer.special)
    matcher = LLMatcher(LLTokenizer(TokenizerWrapper(tokenizer)), grammar, log_level=0)
    assert not matcher.is_error(), matcher.get_error() + grammar
    tokens = tokenizer.encode(text)
    return matcher.validate_tokens([*tokens, END]) == len(tokens) + 1


@pytest.fixture(params=[False, True], ids=["markers are text", "markers are special tokens"])
def are_special(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def answer(name: str) -> str:
    """Returns an answer without a call in the format `name`."""
    return "<|channel|>final<|message|>Hello {" if name == "harmony" else "Hello {"


@pytest.mark.parametrize("name", FORMATS)
def test_auto_allows_texts_and_valid_calls(name: str, are_special: bool) -> None:
    output_format, call = FORMATS[name], CALLS[name]
    constraint = Constraint(TOOLS)

    def is_allowed(text: str) -> bool:
        return accepts(output_format, constraint, text, are_special=are_special)

    assert is_allowed(answer(name))
    assert is_allowed(call)
    assert not is_allowed(call.replace("get_weather", "rm"))
    assert not is_allowed(call.replace("3", '"x"'))
    assert not is_allowed(call.replace("days", "nights"))


@pytest.mark.parametrize("name", FORMATS)
def test_the_grammars_calls_are_what_the_parser_reads(name: str) -> None:
    parsed = parse(FORMATS[name], [CALLS[name]])
    assert not parsed.text
    ((called, arguments, _),) = parsed.calls
    assert called == "get_weather"
    assert json.loads(arguments) == {"city": "P", "days": 3}


@pytest.mark.parametrize("name", FORMATS)
def test_required_allows_only_calls(name: str, are_special: bool) -> None:
    output_format, call = FORMATS[name], CALLS[name]
    constraint = Constraint(TOOLS[:1], is_required=True)
    assert accepts(output_format, constraint, call, are_special=are_special)
    for text in ("", answer(name), answer(name) + call):
        assert not accepts(output_format, constraint, text, are_special=are_special)


@pytest.mark.parametrize("name", sorted(FORMATS.keys() - {"llama", "harmony"}))
@pytest.mark.parametrize("is_required", [False, True])
def test_several_calls_are_allowed_only_if_they_may_be_parallel(
    name: str, is_required: bool, are_special: bool
) -> None:
    call = CALLS[name]
    two = call[:-1] + ", " + call.removeprefix("[TOOL_CALLS][") if name == "mistral" else 2 * call
    for is_parallel in (True, False):
        constraint = Constraint(TOOLS, is_required=is_required, is_parallel=is_parallel)
        result = accepts(FORMATS[name], constraint, two, are_special=are_special)
        assert result == is_parallel


@pytest.mark.parametrize("name", FORMATS)
def test_json_mode_allows_only_json(name: str, are_special: bool) -> None:
    constraint = Constraint(is_json=True, schema=PLACE)
    head = answer(name).removesuffix("Hello {")
    texts = {'{"city": "P", "unit": "C"}': True, '{"city": 1}': False, "Hello": False, "": False}
    for text, is_allowed in texts.items():
        result = accepts(FORMATS[name], constraint, head + text, are_special=are_special)
        assert result == is_allowed, text


@pytest.mark.parametrize("name", sorted(FORMATS.keys() - {"llama"}))
def test_json_mode_with_tools_allows_json_or_calls(name: str, are_special: bool) -> None:
    constraint = Constraint(TOOLS, is_json=True)
    head = answer(name).removesuffix("Hello {")
    texts = {head + '{"a": [1]}': True, CALLS[name]: True, head + "Hello": False}
    for text, is_allowed in texts.items():
        result = accepts(FORMATS[name], constraint, text, are_special=are_special)
        assert result == is_allowed, text


def test_json_mode_of_llama_excludes_calls() -> None:
    constraint = Constraint(TOOLS, is_json=True)
    for text, is_allowed in {'{"a": [1]}': True, "Hello": False}.items():
        assert accepts(LLAMA, constraint, text, are_special=False) == is_allowed


@pytest.mark.parametrize("name", ["hermes", "mistral arguments", "kimi", "gemma", "glm"])
@pytest.mark.parametrize("is_required", [False, True])
def test_reasoning_is_free_and_comes_first(name: str, is_required: bool, are_special: bool) -> None:
    output_format, call = FORMATS[name], CALLS[name]
    tags = output_format.thinking
    assert tags
    marker = "<" if are_special else call[: call.index("get")]
    thought = f"Hm, {marker} and {{."
    before = Constraint(TOOLS, is_required=is_required)
    inside = Constraint(TOOLS, is_required=is_required, stage="inside")
    after = Constraint(TOOLS, is_required=True, stage="after")
    whole = f"{tags.start}{thought}{tags.end}{call}"
    assert accepts(output_format, before, whole, are_special=are_special)
    rest = f"{thought}{tags.end}\n\n{call}"
    assert accepts(output_format, inside, rest, are_special=are_special)
    assert not accepts(output_format, after, whole, are_special=are_special)
    assert not accepts(output_format, inside, call, are_special=are_special)


def test_harmony_allows_reasoning_before_the_call(are_special: bool) -> None:
    reasoning = "<|channel|>analysis<|message|>Hm<|end|><|start|>assistant"
    call = CALLS["harmony"]
    other = ' to=functions.get_weather<|channel|>commentary json<|message|>{"city": "P"}'
    for text in (reasoning + call, other, reasoning + other):
        constraint = Constraint(TOOLS, is_required=True)
        assert accepts(HARMONY, constraint, text, are_special=are_special)


@pytest.mark.parametrize("name", FORMATS)
def test_every_name_and_schema_gives_a_valid_grammar(name: str, are_special: bool) -> None:
    tools = tuple(
        Tool(tool_name, "", {"type": "object", "properties": {key: schema}})
        for tool_name, key, schema in [
            ('a"b\\', 'c"d\n', {"type": "string"}),
            ("猫/|<[7]>", "é:{}", {"enum": ["a", 1, None, {"x": "y"}]}),
            ("\ud800", "x", {"type": ["integer", "null"]}),
            ("#", "x", {"anyOf": [{"type": "string"}, {"$ref": "#/$defs/x"}]}),
            ("%", "x", True),
            ("e", "x", {"type": "string", "enum": ["", 'a"b', "</arg_value>"]}),
            ("a\x7fb", "c\x7fd", {"type": "string", "enum": ["e\x7ff"]}),
            ("&", "x", {"type": "array", "items": {"type": "object", "properties": {"y": {}}}}),
        ]
    )
    tools = tuple(
        Tool(t.name, "", {**t.parameters, "$defs": {"x": {"type": "null"}}}) for t in tools
    )
    for constraint in (Constraint(tools), Constraint(tools, is_required=True, is_parallel=False)):
        accepts(FORMATS[name], constraint, "", are_special=are_special)


def xml_call(name: str, **arguments: str) -> str:
    """Returns a call of the tool `f` in the format `name`, GLM's or Qwen 3 Coder's."""
    before, after = {
        "glm": ("<tool_call>f", "</tool_call>"),
        "qwen coder": ("<tool_call>\n<function=f>", "\n</function>\n</tool_call>"),
    }[name]
    pair = {
        "glm": "<arg_key>{}</arg_key><arg_value>{}</arg_value>",
        "qwen coder": "\n<parameter={}>\n{}\n</parameter>",
    }[name]
    return before + "".join(pair.format(*item) for item in arguments.items()) + after


def allows(name: str, schema: dict[str, Any], text: str, *, are_special: bool) -> bool:
    """Returns whether a completion may be `text` if the tool `f` with this schema is required."""
    constraint = Constraint((Tool("f", "", schema),), is_required=True)
    return accepts(FORMATS[name], constraint, text, are_special=are_special)


XML_NAMES = pytest.mark.parametrize("name", ["glm", "qwen coder"])
ONE = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}


@XML_NAMES
@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object"},
        {},
        {"type": "object", "additionalProperties": {"type": "integer"}},
        {"type": "object", "patternProperties": {"^.": {}}, "additionalProperties": False},
        {"anyOf": [ONE, {"type": "null"}]},
        {"allOf": [ONE]},
        {"$ref": "other.json"},
        {"$ref": "#"},
    ],
)
def test_arguments_that_the_schema_does_not_list_are_allowed(
    name: str, schema: dict[str, Any], are_special: bool
) -> None:
    for arguments in ({}, {"a": "1"}, {"ab": "1", "New York, é": "2", "a": "3"}):
        assert allows(name, schema, xml_call(name, **arguments), are_special=are_special)
    assert not allows(name, schema, xml_call(name, **{" ": "1"}), are_special=are_special)


@XML_NAMES
@pytest.mark.parametrize(
    "schema",
    [
        ONE,
        ONE | {"additionalProperties": False},
        {"$ref": "#/definitions/F", "definitions": {"F": ONE}},
        {"$ref": "#/$defs/a~1%20b", "$defs": {"a/ b": {"$ref": "#/$defs/F"}, "F": ONE}},
    ],
)
def test_only_arguments_of_the_schema_are_allowed(
    name: str, schema: dict[str, Any], are_special: bool
) -> None:
    for arguments, is_allowed in (
        ({"a": "1"}, True),
        ({"a": "x"}, False),
        ({}, False),
        ({"a": "1", "b": "1"}, False),
    ):
        text = xml_call(name, **arguments)
        assert allows(name, schema, text, are_special=are_special) == is_allowed, text


@XML_NAMES
def test_other_arguments_follow_those_that_the_schema_lists(name: str, are_special: bool) -> None:
    schema = ONE | {"additionalProperties": {"type": "boolean"}}
    for arguments, is_allowed in (
        ({"a": "1", "b": "true", "aa": "false"}, True),
        ({"a": "1", "b": "1"}, False),
        ({"b": "true", "a": "1"}, False),
        ({"b": "true"}, False),
    ):
        text = xml_call(name, **arguments)
        assert allows(name, schema, text, are_special=are_special) == is_allowed, text
    again = xml_call(name, a="1", b="true").replace("b", "a")
    assert not allows(name, schema, again, are_special=are_special)


@XML_NAMES
def test_the_schema_of_other_arguments_decides_their_type(name: str) -> None:
    for others, expected in (({"type": "string"}, "12"), ({}, 12), (True, 12)):
        tool = Tool("f", "", {"type": "object", "additionalProperties": others})
        parser = FORMATS[name].parser((tool,), "after")
        chunks = [*parser.feed(xml_call(name, a="12")), *parser.flush()]
        arguments = "".join(chunk.tool_call.arguments for chunk in chunks if chunk.tool_call)
        assert json.loads(arguments) == {"a": expected}


@pytest.mark.parametrize("key", ["a b", "a:", "[a", "{", "<b", "a,b", "}", "]", "", "a-b", "é"])
def test_every_key_of_gemma_can_be_read(key: str, are_special: bool) -> None:
    schema = {"type": "object", "properties": {key: {"type": "integer"}}, "required": [key]}
    forms = [f"<|tool_call>call:f{{{k}:1}}<tool_call|>" for k in (key, f'<|"|>{key}<|"|>')]
    allowed = [form for form in forms if allows("gemma", schema, form, are_special=are_special)]
    (text,) = allowed
    parser = GEMMA.parser((Tool("f", "", schema),), "after")
    (chunk,) = [*parser.feed(text), *parser.flush()]
    assert chunk.tool_call and json.loads(chunk.tool_call.arguments) == {key: 1}
    assert allows("gemma", {"type": "object"}, text, are_special=are_special)


def gemma_call(arguments: str) -> str:
    return f"<|tool_call>call:f{{{arguments}}}<tool_call|>"


@pytest.mark.parametrize("others", [True, {}, {"type": "integer"}, None], ids=str)
@pytest.mark.parametrize("key", ["a", "a b"])
@pytest.mark.parametrize("required", [[], ["a", "a b"]], ids=["optional", "required"])
def test_other_keys_of_gemma_follow_those_that_the_schema_lists(
    key: str, required: list[str], others: Any, are_special: bool
) -> None:
    schema = {
        "type": "object",
        "properties": {key: {"type": "integer"}},
        "required": [name for name in required if name == key],
        "additionalProperties": others,
    }
    if others is None:
        schema |= {"patternProperties": {"^.": {}}, "additionalProperties": False}
    own, quoted = ("a:", '<|"|>a<|"|>:') if key == "a" else ('<|"|>a b<|"|>:', "a b:")
    for arguments, is_allowed in (
        (f"{own}1", True),
        (f'{own}1,b:2,<|"|>c d<|"|>:3,<|"|>a bc<|"|>:4', True),
        (f"{own}1,aa:2,{key[-1]}b:3", True),
        ("", not required),
        ("aa:1", not required),
        ('<|"|>c d<|"|>:3,b:1', not required),
        (f"{own}true", False),
        (f"{own}1,{own}2", False),
        (f"{own}1,{quoted}2", False),
        (f"b:1,{own}2", False),
        (f"{own}1,b:true", not isinstance(others, dict) or others == {}),
    ):
        text = gemma_call(arguments)
        assert allows("gemma", schema, text, are_special=are_special) == is_allowed, text
    nested = {"type": "object", "properties": {"x": {"type": "object", **schema}}}
    text = gemma_call(f"x:{{{own}1,b:2}}")
    assert allows("gemma", nested, text, are_special=are_special)
    assert not allows("gemma", nested, gemma_call("y:1"), are_special=are_special)


@pytest.mark.parametrize(
    ("schema", "keys"),
    [
        ({"type": "object"}, {"a", "b"}),
        ({"type": "object", "additionalProperties": True}, {"a", "b"}),
        ({"type": "object", "additionalProperties": {"type": "boolean"}}, {"b"}),
        ({"type": "object", "properties": {}}, set()),
        ({"type": "object", "additionalProperties": False}, set()),
    ],
)
def test_an_object_of_gemma_without_listed_keys(
    schema: dict[str, Any], keys: set[str], are_special: bool
) -> None:
    values = {"a": "1", "b": "true"}
    for key, value in values.items():
        text = gemma_call(f"{key}:{value}")
        assert allows("gemma", schema, text, are_special=are_special) == (key in keys)
    assert allows("gemma", schema, gemma_call(""), are_special=are_special)


def test_an_enum_of_gemma_may_contain_objects_and_arrays(are_special: bool) -> None:
    values = [{"x": "y", "a b": [1, "z", [], {}]}, [True]]
    schema = {"type": "object", "properties": {"v": {"enum": values}}}
    for written, value in (
        ('{x:<|"|>y<|"|>,<|"|>a b<|"|>:[1,<|"|>z<|"|>,[],{}]}', values[0]),
        ("[true]", values[1]),
    ):
        text = f"<|tool_call>call:f{{v:{written}}}<tool_call|>"
        assert allows("gemma", schema, text, are_special=are_special)
        parser = GEMMA.parser((Tool("f", "", schema),), "after")
        (chunk,) = [*parser.feed(text), *parser.flush()]
        assert chunk.tool_call and json.loads(chunk.tool_call.arguments) == {"v": value}


@pytest.mark.parametrize("kind", ["string", "integer"])
def test_an_empty_enum_has_no_effect_in_formats_without_json(kind: str, are_special: bool) -> None:
    value = {"type": kind, "enum": []}
    schema = {"type": "object", "properties": {"v": value}, "required": ["v"]}
    calls = {"glm": xml_call("glm", v="1"), "qwen coder": xml_call("qwen coder", v="1")}
    calls["gemma"] = gemma_call('v:<|"|>1<|"|>' if kind == "string" else "v:1")
    for name, call in calls.items():
        assert allows(name, schema, call, are_special=are_special), name


@pytest.mark.parametrize("name", sorted(FORMATS.keys() - {"gemma"}))
@pytest.mark.parametrize("keyword", [{"enum": 5}, {"type": 5}])
def test_an_invalid_schema_gives_a_grammar_that_does_not_compile(
    name: str, keyword: dict[str, Any]
) -> None:
    schema = {"type": "object", "properties": {"x": {"type": "string"} | keyword}}
    grammar = FORMATS[name].grammar(Constraint((Tool("f", "", schema),)), {})
    tokenizer = LLTokenizer(TokenizerWrapper(Bytes([])))
    assert "JSON schema" in LLMatcher.validate_grammar(grammar, tokenizer)


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"type": "object"}, {"type": "object"}),
        ({"properties": {}}, {"properties": {}, "additionalProperties": False}),
        ({"properties": {}, "allOf": []}, {"properties": {}, "allOf": []}),
        (
            {"items": {"properties": {"a": {"properties": {}}}}},
            {
                "items": {
                    "properties": {"a": {"properties": {}, "additionalProperties": False}},
                    "additionalProperties": False,
                }
            },
        ),
        ({"properties": {}, "additionalProperties": {}}, None),
        ({"allOf": [{"properties": {}}, {"properties": {"b": {}}}]}, None),
        ({"properties": {"a": {}}, "anyOf": [{"properties": {"b": {}}}]}, None),
        ({"properties": {"a": {}}, "required": ["a", "b"]}, None),
        (True, None),
    ],
)
def test_objects_without_other_keys_are_closed(schema: Any, expected: Any) -> None:
    assert closed(schema) == (schema if expected is None else expected)
